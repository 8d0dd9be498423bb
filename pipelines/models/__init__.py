"""Networks: no losses, no files of ours, no devices."""
