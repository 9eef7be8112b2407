"""Every way in which a weights folder can be wrong, as two tables: what to spoil and what the one line must name."""

from typing import Final

import torch

from tests.model.spoiling import (
    REGRESSION,
    Wrong,
    content,
    entries,
    only_a_pickle,
    removed,
    replaced,
    tensors,
    without,
)

WRONG: Final = (
    Wrong(
        "missing backbone tensor", "armorm", without("model.layers.1.mlp.up_proj.weight"), ("model.layers.1.mlp.up",)
    ),
    Wrong("missing regression layer", "armorm", without(REGRESSION), ("missing", REGRESSION)),
    Wrong("missing transform", "armorm", without("reward_transform_matrix"), ("missing", "reward_transform_matrix")),
    Wrong("missing logit scale", "armorm", without("gating.logit_scale"), ("missing", "gating.logit_scale")),
    Wrong("missing last gating bias", "armorm", without("gating.layers.3.bias"), ("missing", "gating.layers.3.bias")),
    Wrong("missing score head", "classifier", without("score.weight"), ("missing", "score.weight")),
    Wrong(
        "extra gating layer",
        "armorm",
        tensors(lambda held: held.update({"gating.layers.4.bias": torch.zeros(19)})),
        ("gating.layers.4.bias",),
    ),
    Wrong(
        "extra language-modelling head",
        "classifier",
        tensors(lambda held: held.update({"lm_head.weight": torch.zeros(3, 64)})),
        ("lm_head.weight",),
    ),
    Wrong(
        "renamed regression layer",
        "armorm",
        tensors(lambda held: held.update({"score.weight": held.pop(REGRESSION)})),
        (REGRESSION,),
    ),
    Wrong("an objective too few", "armorm", replaced(REGRESSION, lambda rows: rows[:-1]), (REGRESSION, "(18, 64)")),
    Wrong("transposed regression", "armorm", replaced(REGRESSION, lambda rows: rows.T), (REGRESSION, "(64, 19)")),
    Wrong(
        "vocabulary too small",
        "armorm",
        replaced("model.embed_tokens.weight", lambda rows: rows[:-1]),
        ("model.embed_tokens.weight",),
    ),
    Wrong(
        "integer tensor",
        "armorm",
        replaced(REGRESSION, lambda rows: rows.to(torch.int64)),
        (REGRESSION, "I64"),
    ),
    Wrong("NaN in a head", "armorm", replaced(REGRESSION, lambda rows: rows * torch.nan), (REGRESSION,)),
    Wrong(
        "infinity in the backbone",
        "armorm",
        replaced("model.norm.weight", lambda rows: rows / 0),
        ("model.norm.weight",),
    ),
    Wrong("file cut short", "armorm", content("model.safetensors", lambda held: held[:-100]), ("model.safetensors",)),
    Wrong("file of noise", "armorm", content("model.safetensors", lambda held: b"noise" * 99), ("model.safetensors",)),
    Wrong("empty file", "armorm", content("model.safetensors", lambda held: b""), ("model.safetensors",)),
    Wrong("pickle only", "armorm", only_a_pickle, ("pytorch_model.bin", "pickle")),
    Wrong("no tensors at all", "armorm", removed("model.safetensors"), ("model.safetensors",)),
    Wrong(
        "absent shard", "sharded", removed("model-00002-of-00003.safetensors"), ("model-00002-of-00003.safetensors",)
    ),
    Wrong(
        "index out of the folder",
        "sharded",
        entries(
            "model.safetensors.index.json", lambda index: index["weight_map"].update({"x": "../elsewhere.safetensors"})
        ),
        ("elsewhere.safetensors",),
    ),
    Wrong(
        "index that is no index",
        "sharded",
        content("model.safetensors.index.json", lambda held: b"[1]"),
        ("model.safetensors.index.json",),
    ),
    Wrong(
        "a tensor in two shards",
        "sharded",
        tensors(
            lambda held: held.update({"model.embed_tokens.weight": torch.zeros(2)}), "model-00002-of-00003.safetensors"
        ),
        ("model.embed_tokens.weight",),
    ),
    Wrong("no config", "armorm", removed("config.json"), ("config.json",)),
    Wrong("config that is no JSON", "armorm", content("config.json", lambda held: held[:-5]), ("config.json",)),
    Wrong(
        "another architecture",
        "armorm",
        entries("config.json", lambda config: config.update(architectures=["LlamaForCausalLM"])),
        ("LlamaForCausalLM",),
    ),
    Wrong(
        "another number of objectives",
        "armorm",
        entries("config.json", lambda config: config.update(num_objectives=18)),
        ("18", "19"),
    ),
    Wrong(
        "another gating depth",
        "armorm",
        entries("config.json", lambda config: config.update(gating_n_hidden=2)),
        ("gating.layers",),
    ),
    Wrong(
        "digest of the tensors",
        "own",
        replaced(REGRESSION, lambda rows: rows + 1e-3),
        ("model.safetensors", "SHA-256"),
    ),
    Wrong("digest of the tokenizer", "own", content("tokenizer.json", lambda held: held + b" "), ("tokenizer.json",)),
    Wrong(
        "digest of the template",
        "own",
        content("chat_template.jinja", lambda held: held.replace(b"| trim", b"")),
        ("chat_template.jinja",),
    ),
    Wrong(
        "file without a digest",
        "own",
        entries("manifest.json", lambda held: held["sha256"].pop("config.json")),
        ("config.json",),
    ),
    Wrong("digest of an absent file", "own", removed("tokenizer_config.json"), ("tokenizer_config.json",)),
    Wrong(
        "manifest with an unknown key", "own", entries("manifest.json", lambda held: held.update(colour=1)), ("colour",)
    ),
    Wrong(
        "manifest with an objective too few",
        "own",
        entries("manifest.json", lambda held: held["objectives"].pop()),
        ("18", "19"),
    ),
    Wrong(
        "manifest without objectives",
        "own",
        entries("manifest.json", lambda held: held.pop("objectives")),
        ("manifest.json", "objectives"),
    ),
    Wrong(
        "manifest of a later format",
        "own",
        entries("manifest.json", lambda held: held.update(format=2)),
        ("manifest.json", "format"),
    ),
    Wrong("manifest that is no JSON", "own", content("manifest.json", lambda held: held[1:]), ("manifest.json",)),
    Wrong("heads of the manifest absent", "own", removed("moslim.safetensors"), ("moslim.safetensors",)),
    Wrong(
        "a head with a class too many",
        "own",
        entries("manifest.json", lambda held: held["moslim"]["heads"][0].update(classes=6)),
        ("helpfulness",),
    ),
)
