"""Stages that train generators: anchored_flow_identity, anchored_flow_motion, rectified_flow."""
