"""Exported nets load in transformers, nothing missing or left over, and give the same logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairkd_jax.models import pretrained
from fairkd_jax.models.net import make_net

torch = pytest.importorskip("torch", reason="no PyTorch: exported nets are not tried in it")
transformers = pytest.importorskip("transformers")

LABELS = ("first", "second", "third")
WORDS = {"vocab_size": 30, "length": 9, "label_tokens": ((3, 1), (4, 5, 1), (4, 6, 1))}
FACTS = {
    "wordpiece": WORDS,
    "unigram": WORDS,
    "image": {"height": 32, "width": 32, "channels": 3},
}
SIZES = {"depth": 2, "width": 16, "heads": 4, "mlp_width": 24}
BERT = {"name": "bert", **SIZES, "positions": 12}
RESNET = {"name": "resnet", "depths": (1, 2), "widths": (8, 16), "stem_width": 8}
VIT = {"name": "vit", **SIZES, "patch": 8}
T5 = {"name": "t5", **SIZES, "decoder_depth": 3, "head_width": 8}
GATED = T5 | {"gated": True, "scale_outputs": False}
NETS = {
    "bert": BERT,
    "resnet_basic": RESNET,
    "resnet_bottleneck": RESNET | {"block": "bottleneck"},
    "resnet_early_stride": RESNET | {"block": "bottleneck", "early_stride": True},
    "resnet_first_stride": RESNET | {"first_stride": 2},
    "vit": VIT,
    "vit_without_bias": VIT | {"qkv_bias": False},
    "deit": VIT | {"distillation": "token"},
    "deit_with_two_heads": VIT | {"distillation": "head"},
    "t5_sequence": T5 | {"readout": "sequence"},
    "t5_verbalizer": T5 | {"readout": "verbalizer"},
    "t5_gated_sequence": GATED | {"readout": "sequence"},
    "t5_gated_verbalizer": GATED | {"readout": "verbalizer", "tied": False},
}


def random_variables(net):
    """Every variable random; variances positive."""
    rng = np.random.default_rng(0)
    fresh = jax.jit(net.init)(jax.random.key(0))
    noisy = jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32), fresh)
    return {"params": noisy["params"], "stats": jax.tree.map(jnp.abs, noisy["stats"])}


def make_inputs():
    rng = np.random.default_rng(1)
    length = np.array([9, 4, 7, 2])[:, None]
    place = np.arange(9)[None]
    tokens = np.where(place < length, rng.integers(2, 30, (4, 9)), 0)
    tokens[place == length - 1] = 1  # the end of a text, once in each
    mask, segments = place < length, (place >= length // 2) & (place < length)
    text = {"tokens": tokens, "mask": mask.astype(int), "segments": segments.astype(int)}
    pixels = rng.normal(size=(4, 32, 32, 3)).astype(np.float32)
    text = {k: v.astype(np.int32) for k, v in text.items()}
    return {"wordpiece": text, "unigram": text, "image": {"pixels": pixels}}


def published_logits(model, view, inputs, verbalizes):
    """[B, C] by transformers."""
    if view == "image":
        return model(torch.tensor(inputs["pixels"].transpose(0, 3, 1, 2))).logits
    tokens, mask, segments = (torch.tensor(inputs[k]).long() for k in inputs)
    if view == "wordpiece":
        return model(tokens, attention_mask=mask, token_type_ids=segments).logits
    if not verbalizes:
        return model(tokens, attention_mask=mask).logits
    columns = []
    for words in WORDS["label_tokens"]:
        labels = torch.tensor([words] * len(tokens))
        log_probs = model(tokens, attention_mask=mask, labels=labels).logits.log_softmax(-1)
        columns.append(log_probs.gather(2, labels[..., None]).sum((1, 2)))
    return torch.stack(columns, 1)


@pytest.mark.parametrize("name", NETS)
def test_exported_nets_give_the_same_logits_in_transformers(name, tmp_path):
    net = make_net(NETS[name], 3, FACTS)
    variables, inputs = random_variables(net), make_inputs()
    pretrained.save(net, variables, tmp_path / "ours", LABELS)
    kind = getattr(transformers, net.architecture.to_config()["architectures"][0])
    model, loading = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(loading.values()), loading
    assert model.config.id2label == dict(enumerate(LABELS)) and model.config.num_labels == 3
    with torch.no_grad():
        verbalizes = "verbalizer" in name
        theirs = published_logits(model.eval(), net.view, inputs[net.view], verbalizes).numpy()
    apply = jax.jit(lambda v, x: net.apply(v, {"views": x}, train=False)[0].logits)
    np.testing.assert_allclose(apply(variables, inputs), theirs, rtol=1e-4, atol=1e-4)

    # And what transformers writes is read back, sizes and all.
    model.save_pretrained(tmp_path / "theirs")
    spec = {"name": NETS[name]["name"], "pretrained": str(tmp_path / "theirs")}
    again = make_net(spec, 3, FACTS)
    assert again == net
    back = pretrained.load(again, tmp_path / "theirs", variables, "take", LABELS)
    jax.tree.map(np.testing.assert_array_equal, back, jax.device_get(variables))
