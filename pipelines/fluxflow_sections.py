"""From a configuration of seed D's guide to sections of params.yaml and stages of dvc.yaml (:mod:`pipelines.fluxflow`).

Each step of the guide becomes a stage; the first of a kind takes the stage that is there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipelines.fluxflow_blocks import epochs_of, optimizer, schedule, stop_when, unread
from pipelines.fluxflow_config import NETWORKS, Config
from pipelines.params import ParamsError
from pipelines.profile import Whole

STRIDE = 8
"""Our spatial stride; the guide's is 16."""
TERMS = [
    "reconstruction",
    "frequency",
    "kl",
    "contrast",
    "color",
    "histogram",
    "perceptual",
    "temporal",
    "channel_prefix",
    "masked_latents",
]
LPIPS = "weights/lpips"
PARTS = {"compressor": "encoder", "expander": "decoder"}
"""Halves of an autoencoder."""


class Import:
    """From a configuration to sections, stages and what was left out."""

    def __init__(self, config: Config, images: int | None) -> None:
        self.config, self.images = config, images
        self.sections: dict[str, Any] = {}
        self.kinds: dict[str, str] = {}
        self.stages: list[str] = []
        self.left_out = dict(config.left_out)
        self.placed: dict[str, list[str]] = {}
        self.parent = "checkpoints/autoencoder"
        self.flow: str | None = None
        if self._has_source(config.top):
            self.sections["raw_video"] = self._source()
        for step in config.steps:
            self._step(step)

    def _has_source(self, top: Mapping[str, Any]) -> bool:
        """Whether it is said where the pictures are; what cannot be is left out."""
        url = str(top.get("webdataset_url") or "")
        if not top.get("use_webdataset"):
            return "data_path" in top
        if not url:
            self.left_out["use_webdataset"] = "the guide's own data set stands nowhere in it: state webdataset_url"
        if "*" in url:
            self.left_out["webdataset_url: *"] = "no folder is listed at an address: write a range, {000..012}"
        return bool(url)

    def _source(self) -> dict[str, Any]:
        top = self.config.top
        side = int(top.get("img_size", 1024))
        clip = {"num_frames": 1, "height": side, "width": side}
        shared = {
            "prompt_prefix": top.get("fixed_prompt_prefix"),
            "cutting": {"stride": 1.0, "shots": None, "buckets": None, "hold": None},
            "quality": {"motion": None, "sharpness": None, "duplicate": None, "caption": {"min_words": 1}},
            "max_clips_per_video": None,
            "max_rejected_share": 0.05,
            "limits": {
                "max_pixels": 9437184,
                "max_frames": 200000,
                "max_seconds": 10800.0,
                "max_bytes": 68719476736,
                "max_decode_seconds": 3600.0,
            },
        }
        if top.get("use_webdataset"):
            tars = {
                "urls": [str(top["webdataset_url"])],
                "max_samples": None,
                "media": str(top.get("webdataset_image_key", "png")),
                "captions": str(top.get("webdataset_label_key", "json")),
                "caption": str(top.get("webdataset_caption_key", "prompt")),
            }
            return {"clip": clip, "source": Whole(webdataset=tars | shared)}
        folder = {"path": str(top["data_path"]), "media": "images", "captions": top.get("captions_file")}
        return {"clip": clip, "source": Whole(folder=folder | shared)}

    # ---- steps ----

    def _step(self, step: dict[str, Any]) -> None:
        coder = bool(step.get("train_vae") or (step.get("gan_training") and not step.get("train_diff_full")))
        flow = bool(step.get("train_diff") or step.get("train_diff_full"))
        self._frozen(step, coder, flow)
        if coder and flow:
            self.left_out[f"{step['name']}: VAE and flow together"] = "latents are encoded once; two stages, one by one"
        if coder:
            self._coder(step)
        if flow:
            self._flow(step)
        if not coder and not flow:
            self.left_out[str(step["name"])] = "the step trains nothing (train_vae, gan_training, train_diff_full)"

    def _frozen(self, step: dict[str, Any], coder: bool, flow: bool) -> None:
        """``freeze`` in the guide's components, whichever of its ways says so; what a stage cannot say is left out.

        Raises:
            ParamsError: a component that there is not, or nothing is left to train.
        """
        name, frozen = step["name"], list(step.get("freeze", ()))
        for component in [*frozen, *step.get("unfreeze", ())]:
            if component not in NETWORKS:
                known = ", ".join(NETWORKS)
                raise ParamsError(f"step {name}: freeze: {component!r} is no component; one of {known}.")
        frozen += ["vae"] * bool(step.get("freeze_vae")) + ["flow"] * bool(step.get("freeze_flow"))
        parts = {PARTS[one] for one in frozen if one in PARTS} | ({"encoder", "decoder"} if "vae" in frozen else set())
        if (coder and not flow and len(parts) == 2) or (
            flow and not coder and {"flow", "flow_processor"} & set(frozen)
        ):
            raise ParamsError(f"step {name}: what it trains is frozen, so nothing is left; take one of them out.")
        step["freeze"] = sorted(parts)
        if coder and not step.get("train_reconstruction", True) and not step.get("gan_training"):
            raise ParamsError(
                f"step {name}: train_reconstruction false without gan_training: nothing is left to learn."
            )
        if coder and "autoencoder" not in self.sections and parts:
            self.left_out[f"{name}.freeze"] = "the first step trains the autoencoder from its beginning, all of it"
        for one in frozen:
            if coder and NETWORKS[one] == "discriminator":
                self.left_out[f"{name}.freeze.{one}"] = "a game needs its discriminator trained"
        reasons = {"unfreeze": "freezing ends with its step", "dataset": "a stage reads one place"}
        reasons["sample_captions"] = "`reel generate` takes prompts; validation shows held-out ones"
        reasons |= {"description": "desc of the stage in dvc.yaml"} if name not in self.kinds else {}
        if not step.get("freeze_text_encoder", True):
            self.left_out[f"{name}.freeze_text_encoder"] = "the text encoder is frozen"
        self.left_out |= {f"{name}.{key}": reason for key, reason in reasons.items() if key in step}

    def _training(self, step: Mapping[str, Any], main: str) -> dict[str, Any]:
        rate, floor = float(step.get("lr", 5e-7)), float(step.get("lr_min", 0.1))
        batch = int(step.get("batch_size", 2))
        accumulated = batch * int(step.get("training_steps", 1))
        entries = {kind: self._by_network(step, kind) for kind in ("optimizers", "schedulers")}
        made: dict[str, Any] = {
            "steps": self._updates(step, accumulated),
            "batch_size": accumulated,
            "micro_batch": batch,
            "precision": "fp16" if step.get("use_fp16") else "fp32",
            "max_grad_norm": float(step.get("initial_clipping_norm", 1.0)),
            "optimizer": optimizer(entries["optimizers"].get(main, {}), rate),
            "schedule": schedule(entries["schedulers"].get(main, {}), floor),
            "stop_when": stop_when(step),
            "per_network": None,
        }
        if step.get("use_ema", True):
            made["ema"] = Whole(decay=0.999 if main == "autoencoder" else 0.9999, warmup_steps=10)
        critic = {kind: one.get("discriminator", {}) for kind, one in entries.items()}
        if main == "autoencoder" and step.get("gan_training"):
            own = {"optimizer": dict(optimizer(critic["optimizers"], rate))}
            made["per_network"] = Whole(discriminator=own | {"schedule": dict(schedule(critic["schedulers"], floor))})
        return made

    def _by_network(self, step: Mapping[str, Any], kind: str) -> dict[str, Mapping[str, Any]]:
        found: dict[str, Mapping[str, Any]] = {}
        for component, entry in step[kind].items():
            network, usual = NETWORKS[component], "AdamW" if kind == "optimizers" else "CosineAnnealingLR"
            where = f"{step['name']}.{kind}.{component}"
            if network == "text_encoder":
                self.left_out[where] = "the text encoder is frozen"
            elif network in found:
                self.left_out[where] = f"the {network} has one, the first named"
            else:
                found[network] = entry
                self.left_out |= {f"{where}.{key}": reason for key, reason in unread(entry, usual).items()}
        return found

    def _updates(self, step: Mapping[str, Any], batch: int) -> int:
        if step.get("max_steps") is not None:
            return int(step["max_steps"])
        epochs = epochs_of(step)
        if self.images is None:
            raise ParamsError(
                f"step {step['name']}: n_epochs {epochs}: how many updates depends on the number of pictures, and "
                "captions_file is not on this machine; say --images N."
            )
        return max(1, epochs * math.ceil(self.images / batch))

    def _losses(self, step: Mapping[str, Any]) -> dict[str, Any]:
        terms: dict[str, Any] = dict.fromkeys(TERMS)
        if step.get("train_reconstruction", True):
            weight = float(step.get("mse_weight", 0.1))
            terms["reconstruction"] = {"kind": "mse", "weight": weight, "warmup": None} if weight else None
            terms["frequency"] = {"weight": 1.0, "warmup": None, "high": 0.5}
            terms["contrast"] = {"weight": 0.1, "warmup": None}
            terms["color"] = {"weight": 0.05, "warmup": None}
            terms["histogram"] = {"weight": 0.02, "warmup": None, "bins": 64}
        if step.get("use_lpips") and step.get("lambda_lpips", 0.1):
            features = {"kind": "lpips", "folder": LPIPS}
            terms["perceptual"] = {"weight": float(step.get("lambda_lpips", 0.1)), "warmup": None, "features": features}
        beta, grows = float(step.get("kl_beta", 1e-4)), int(step.get("kl_warmup_steps", 5000))
        if beta:
            warmup = {"shape": "cosine", "start": 0, "steps": grows} if grows else None
            free = float(step.get("kl_free_bits", 0.0))
            terms["kl"] = {"weight": beta, "warmup": warmup, "reduce": "mean", "free_bits": free}
        return Whole(terms)

    def _coder(self, step: dict[str, Any]) -> None:
        if "autoencoder" not in self.sections:
            first = {**step, "stop_condition": None, "transition_on": None} if step.get("gan_training") else step
            network = {"latent_channels": int(self.config.top.get("vae_dim", 128))}
            network |= {"width": int(self.config.top.get("feature_maps_dim", 128))}
            network |= {"spade": 128 if any(one.get("train_spade") for one in self.config.steps) else None}
            losses = self._losses({**first, "train_reconstruction": True})
            training = self._training({**first, "gan_training": False}, "autoencoder")
            self.sections["autoencoder"] = {
                "pretrained": None,
                "network": network,
                "losses": losses,
                "training": training,
            }
            self.placed[step["name"]] = ["autoencoder"]
            self.left_out["compressor stride 16"] = f"our autoencoder's spatial stride is {STRIDE}"
            if not step.get("gan_training"):
                return
            self.left_out[f"{step['name']}: GAN from the first update"] = (
                "autoencoder trains the reconstruction first, autoencoder_adversarial goes on from it"
            )
        name = "autoencoder_adversarial" if "autoencoder_adversarial" not in self.sections else str(step["name"])
        self._game(step, name)

    def _game(self, step: dict[str, Any], name: str) -> None:
        plays = bool(step.get("gan_training"))
        gamma, noise = float(step.get("r1_gamma", 5.0)), float(step.get("instance_noise_std", 0.01))
        weight = float(step.get("lambda_adv", 0.5))
        if plays and not weight:
            self.left_out[f"{step['name']}.lambda_adv"] = "weight 0: no game"
            plays = False
        game = {
            "weight": weight,
            "warmup": None,
            "game": "hinge",
            "balance": {"most": 1.0e4} if step.get("adaptive_weights", True) else None,
            "r1": {"gamma": gamma, "every": int(step.get("r1_interval", 16))} if gamma else None,
            "lecam": None,
            "instance_noise": {"std": noise, "decay": float(step.get("instance_noise_decay", 0.9999))}
            if noise
            else None,
        }
        if not step.get("train_reconstruction", True):
            game["balance"] = None
        width = int(self.config.top.get("feature_maps_dim_disc", 8))
        critic = {"dimensions": 2, "width": width, "levels": 4, "condition": "latents"}
        self.sections[name] = {
            "freeze": step["freeze"],
            "losses": self._losses(step),
            "adversarial": Whole(game) if plays else None,
            "discriminator": Whole(critic) if plays else None,
            "training": self._training(step, "autoencoder"),
        }
        self._stage(step["name"], name, "autoencoder_adversarial", f"--clips data/clips --init {self.parent}")
        self.parent = f"checkpoints/{name}"

    def _flow(self, step: dict[str, Any]) -> None:
        name = "rectified_flow" if "rectified_flow" not in self.sections else str(step["name"])
        self.sections[name] = {"training": self._training(step, "denoiser")}
        if step.get("cfg_dropout_prob") is not None:
            self.sections[name]["prompt_dropout"] = float(step["cfg_dropout_prob"])
        self.left_out[f"{step['name']}: DDPM v-prediction"] = "trained as a rectified flow, in 20 steps of Euler"
        going_on = "" if self.flow is None else f" --init {self.flow}"
        self._stage(
            step["name"], name, "rectified_flow", f"--latents data/latents --autoencoder {self.parent}{going_on}"
        )
        self.flow = f"checkpoints/{name}"

    def _stage(self, step: str, name: str, kind: str, places: str) -> None:
        self.kinds[name] = kind
        self.placed.setdefault(step, []).append(name)
        if name == kind:
            return
        module = {"autoencoder_adversarial": "latents.adversarial", "rectified_flow": "generation.rectified_flow"}[kind]
        results = f"--metrics metrics/{name}.json --plots plots/{name}"
        deps = ", ".join(word for word in places.split() if not word.startswith("--"))
        self.stages.append(
            f"  {name}:\n    desc: Step {name} of the imported configuration.\n"
            f"    meta: {{dagster: {{group: {kind}}}}}\n"
            f"    cmd: python -m pipelines.launch pipelines.{module} train --params {name} {places} "
            f"--out checkpoints/{name} {results}\n"
            f"    deps: [{deps}]\n    params: [{name}, {{code.json: [{name}]}}]\n    outs: [checkpoints/{name}]\n"
            f"    metrics: [metrics/{name}.json]\n    plots: [plots/{name}]"
        )
