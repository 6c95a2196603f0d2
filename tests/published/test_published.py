"""Published checkpoints against the networks they come from, told from their description, in both directions."""

import math
import re

import pytest
import torch
from torch.nn import functional as F

from glmc import ClassWeighted, MixUpCutMix
from glmc.errors import UserError
from glmc.methods.glmc import GLMC
from glmc.models import build_backbone
from glmc.published.weights import Published, read, write

# ------------------------------------------------------------------------------------------- the published networks


class Network:
    """Layers by their published names; a tensor is drawn when it is first asked for, or must be among those given."""

    def __init__(self, tensors=None):
        self.generator = torch.Generator().manual_seed(0)
        self.tensors, self.drawing = ({}, True) if tensors is None else (tensors, False)

    def get(self, name, shape, draw):
        if self.drawing and name not in self.tensors:
            self.tensors[name] = draw(shape)
        assert self.tensors[name].shape == shape, name
        return self.tensors[name]

    def normal(self, scale):
        return lambda shape: scale * torch.randn(shape, generator=self.generator)

    def positive(self, shape):
        return 0.5 + torch.rand(shape, generator=self.generator)

    def conv(self, name, x, outputs, kernel, stride=1, groups=1):
        shape = (outputs, x.shape[1] // groups, kernel, kernel)
        weight = self.get(f"{name}.weight", shape, self.normal(1 / math.sqrt(math.prod(shape[1:]))))
        return F.conv2d(x, weight, stride=stride, padding=kernel // 2, groups=groups)

    def norm(self, name, x):
        shape = (x.shape[1],)
        mean = self.get(f"{name}.running_mean", shape, self.normal(0.3))
        var = self.get(f"{name}.running_var", shape, self.positive)
        weight, bias = (
            self.get(f"{name}.weight", shape, self.positive),
            self.get(f"{name}.bias", shape, self.normal(0.3)),
        )
        self.get(f"{name}.num_batches_tracked", (), lambda _: torch.tensor(17_000))
        return F.batch_norm(x, mean, var, weight, bias)

    def linear(self, name, x, outputs):
        weight = self.get(f"{name}.weight", (outputs, x.shape[1]), self.normal(1 / math.sqrt(x.shape[1])))
        return F.linear(x, weight, self.get(f"{name}.bias", (outputs,), self.normal(0.3)))

    def heads(self, x, classes, hidden):
        """Feature maps -> logits of fc, logits of fc_cb (the answer), prediction."""
        h = F.adaptive_avg_pool2d(x, 1).flatten(1)
        plain, answer = self.linear("fc", h, classes), self.linear("fc_cb", h, classes)
        z = self.linear("projection_head.0", h, hidden)
        return plain, answer, self.linear("contrast_head.0", z, hidden)


def resnet_modify(net, x, classes, blocks=5, width=64):
    """Three stages of basic blocks, shortcuts without parameters."""
    x = F.relu(net.norm("bn1", net.conv("conv1", x, width, 3)))
    for stage in (1, 2, 3):
        for block in range(blocks):
            at, outputs = f"layer{stage}.{block}", width * 2 ** (stage - 1)
            stride = 2 if stage > 1 and block == 0 else 1
            y = F.relu(net.norm(f"{at}.bn1", net.conv(f"{at}.conv1", x, outputs, 3, stride)))
            y = net.norm(f"{at}.bn2", net.conv(f"{at}.conv2", y, outputs, 3))
            if stride == 2:
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, outputs // 4, outputs // 4))
            x = F.relu(y + x)
    return net.heads(x, classes, 128)


def resnet_cifar(net, x, classes, stages, bottleneck=False):
    """Four stages behind a small stem; layers numbered within each block."""
    x = F.relu(net.norm("conv1.1", net.conv("conv1.0", x, 64, 3)))
    for stage, blocks in enumerate(stages):
        for block in range(blocks):
            at, width = f"conv{stage + 2}_x.{block}", 64 * 2**stage
            outputs, stride = (4 * width if bottleneck else width), (2 if stage > 0 and block == 0 else 1)
            plan = [(width, 1, 1), (width, 3, stride), (outputs, 1, 1)]  # channels, kernel, stride
            y = x
            for i, (channels, kernel, step) in enumerate(plan if bottleneck else [(width, 3, stride), (width, 3, 1)]):
                y = F.relu(y) if i else y
                y = net.conv(f"{at}.residual_function.{3 * i}", y, channels, kernel, step)
                y = net.norm(f"{at}.residual_function.{3 * i + 1}", y)
            if stride == 2 or x.shape[1] != outputs:
                x = net.norm(f"{at}.shortcut.1", net.conv(f"{at}.shortcut.0", x, outputs, 1, stride))
            x = F.relu(y + x)
    return net.heads(x, classes, 256)


def resnet_lt(net, x, classes, stages=(3, 4, 6, 3), groups=32, narrow=128):
    """Torchvision's layout with bottlenecks: ResNeXt-50 32x4d unless told otherwise."""
    x = F.relu(net.norm("bn1", net.conv("conv1", x, 64, 7, 2)))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    for stage, blocks in enumerate(stages):
        for block in range(blocks):
            at, inside, outputs = f"layer{stage + 1}.{block}", narrow * 2**stage, 256 * 2**stage
            stride = 2 if stage > 0 and block == 0 else 1
            y = F.relu(net.norm(f"{at}.bn1", net.conv(f"{at}.conv1", x, inside, 1)))
            y = F.relu(net.norm(f"{at}.bn2", net.conv(f"{at}.conv2", y, inside, 3, stride, groups)))
            y = net.norm(f"{at}.bn3", net.conv(f"{at}.conv3", y, outputs, 1))
            if block == 0:
                x = net.norm(f"{at}.downsample.1", net.conv(f"{at}.downsample.0", x, outputs, 1, stride))
            x = F.relu(y + x)
    return net.heads(x, classes, 256)


FAMILIES = {
    "resnet32_w64": lambda net, x, c: resnet_modify(net, x, c),
    "resnet20": lambda net, x, c: resnet_modify(net, x, c, blocks=3, width=16),
    "resnet18_small": lambda net, x, c: resnet_cifar(net, x, c, (2, 2, 2, 2)),
    "resnet34_small": lambda net, x, c: resnet_cifar(net, x, c, (3, 4, 6, 3)),
    "resnet50_small": lambda net, x, c: resnet_cifar(net, x, c, (3, 4, 6, 3), bottleneck=True),
    "resnext50_32x4d": lambda net, x, c: resnet_lt(net, x, c),
    "resnet50": lambda net, x, c: resnet_lt(net, x, c, groups=1, narrow=64),
}


def images(side=16, channels=3):
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(1))


def random_state(backbone, classes, x=None):
    """The tensors of a published network."""
    net = Network()
    FAMILIES[backbone](net, images() if x is None else x, classes)
    return net.tensors


def answer(backbone, tensors, x, classes):
    return FAMILIES[backbone](Network(tensors), x, classes)[1]


def of_glmc(backbone, counts, **settings):
    return GLMC(backbone, counts, ClassWeighted(counts), MixUpCutMix(counts), **settings)


def glmc(found: Published):
    method = of_glmc(
        build_backbone(found.backbone), torch.ones(found.classes, dtype=torch.int64), embedding=found.embedding
    )
    method.load_state_dict(method.state_dict() | found.weights)
    return method.eval()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "ckpt.best.pth.tar"
    yield path
    path.unlink(missing_ok=True)  # the kept folders of past runs would hold a gigabyte


def save(file, tensors, prefix="module.", **rest):
    torch.save({"epoch": 200, "state_dict": {prefix + key: t for key, t in tensors.items()}, **rest}, file)


# ------------------------------------------------------------------------------------------------------ both directions


@pytest.mark.parametrize(
    ("backbone", "classes", "number", "parameters", "side", "prefix"),
    [
        ("resnet32_w64", 100, 194, 7_484_424, 16, "module."),
        ("resnet18_small", 100, 128, 11_468_552, 8, ""),
        ("resnet34_small", 100, 224, 21_576_712, 8, "module."),
        ("resnet50_small", 100, 326, 24_500_488, 8, ""),
        ("resnext50_32x4d", 1000, 326, 27_668_240, 64, "module."),
    ],
)
@torch.inference_mode()
def test_a_published_network_answers_here_as_it_did_there(file, backbone, classes, number, parameters, side, prefix):
    x = images(side)
    tensors = random_state(backbone, classes, x)
    assert len(tensors) == number  # the description above is the published one
    assert sum(t.numel() for key, t in tensors.items() if not key.endswith(("_mean", "_var", "tracked"))) == parameters
    save(file, tensors, prefix, best_acc1=57.97)

    found = read(file)
    assert (found.backbone, found.classes, found.epoch, found.best_acc1) == (backbone, classes, 200, 57.97)
    wanted = answer(backbone, tensors, x, classes)
    assert wanted.std() > 0.1  # not all the same
    torch.testing.assert_close(glmc(found).predict(x), wanted, rtol=1e-5, atol=1e-5)

    write(file, found.weights, backbone, epoch=3, best_acc1=12.5)
    content = torch.load(file, weights_only=True)
    assert (content["epoch"], content["best_acc1"]) == (3, 12.5)
    assert content["state_dict"].keys() == {f"module.{key}" for key in tensors}
    assert all(torch.equal(content["state_dict"][f"module.{key}"], t) for key, t in tensors.items())


@pytest.mark.parametrize("backbone", ["resnet20", "resnet18_small"])
@torch.inference_mode()
def test_a_method_of_ours_answers_there_as_it_does_here(file, backbone):
    torch.manual_seed(0)
    method = of_glmc(build_backbone(backbone), torch.tensor([9, 5, 2]))
    method.train().backbone(images(16), groups=2)  # moves the running averages and their counts
    method = method.to(memory_format=torch.channels_last).eval()
    write(file, method.state_dict(), backbone, epoch=1, best_acc1=50)
    tensors = {key.removeprefix("module."): t for key, t in torch.load(file, weights_only=True)["state_dict"].items()}
    torch.testing.assert_close(method.predict(images()), answer(backbone, tensors, images(), 3), rtol=1e-5, atol=1e-5)

    found = read(file)
    assert found.weights.keys() == method.state_dict().keys() - {"class_weights"}
    assert all(torch.equal(t, method.state_dict()[key]) for key, t in found.weights.items())
    assert found.weights["backbone.net.bn1.num_batches_tracked"] == 2


def test_all_heads_find_their_places(file):
    tensors = random_state("resnet20", 4)
    save(file, tensors)
    found = read(file)
    method = glmc(found)
    with torch.inference_mode():
        features = method.backbone(images())
        ours = method.classifier(features), method.rebalanced(features), method.predictor(method.projector(features))
        for a, b in zip(ours, FAMILIES["resnet20"](Network(tensors), images(), 4), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert found.embedding == 128


@pytest.mark.parametrize(("backbone", "embedding"), [("resnet32", 128), ("resnet20_w64", 128), ("resnet18_small", 256)])
def test_glmc_takes_the_published_embedding_unless_told(backbone, embedding):
    encoder, counts = build_backbone(backbone), torch.tensor([3, 2])
    assert of_glmc(encoder, counts).predictor.weight.shape == (embedding, embedding)
    assert of_glmc(encoder, counts, embedding=7).projector.weight.shape == (7, encoder.out_dim)


def test_other_networks_of_torchvisions_layout_are_known_by_their_shapes(file):
    save(file, random_state("resnet50", 3, images(32)))
    found = read(file)
    assert (found.backbone, found.classes, found.embedding) == ("resnet50", 3, 256)


def test_a_bare_state_dict_and_grey_images_are_read(file):
    torch.save(random_state("resnet20", 3, images(channels=1)), file)
    found = read(file)
    assert (found.epoch, found.best_acc1) == (None, None)
    assert found.weights["backbone.net.conv1.weight"].shape == (16, 1, 3, 3)
    write(file, found.weights, "resnet20", epoch=1, best_acc1=0)
    assert torch.equal(read(file).weights["rebalanced.bias"], found.weights["rebalanced.bias"])


def test_the_best_accuracy_may_be_a_tensor(file):
    save(file, random_state("resnet20", 3), best_acc1=torch.tensor(71.5))
    assert read(file).best_acc1 == 71.5


# ------------------------------------------------------------------------------------------------------ what is refused


def complaint(file):
    with pytest.raises(UserError) as caught:
        read(file)
    sentence = str(caught.value)
    assert sentence.startswith(f"{file}: ")
    assert "\n" not in sentence
    return sentence


class Gadget:
    """What a hostile file would hold: code that runs when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (self.target, "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_file_is_refused_without_running_it(file, tmp_path, zipped):
    content = {"epoch": Gadget(str(tmp_path / "executed")), "state_dict": random_state("resnet20", 3)}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    assert "which is refused" in complaint(file)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.999])
def test_a_file_that_is_cut_short_is_refused(file, share):
    save(file, random_state("resnet20", 3))
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    assert "damaged, cut short" in complaint(file)


def test_an_absent_file_is_named(file):
    assert "there is no such file" in complaint(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([torch.zeros(3)], "holds a list and no dict"),
        (torch.zeros(3), "holds a Tensor and no dict"),
        ({"state_dict": [1, 2]}, "holds no dict of named tensors"),
        ({1: torch.zeros(3)}, "holds no dict of named tensors"),
        ({"weight": torch.zeros(3)}, "lacks 194 of its 194 tensors: backbone"),
        ({}, "lacks 194 of its 194"),
    ],
)
def test_a_foreign_file_is_refused(file, content, said):
    torch.save(content, file)
    assert said.replace(": backbone", ": conv1.weight, bn1.weight, bn1.bias, ...") in complaint(file)


def without(*names):
    return lambda tensors: {key: t for key, t in tensors.items() if not key.startswith(names)}


def with_(**replaced):
    return lambda tensors: tensors | {key.replace("__", "."): t for key, t in replaced.items()}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without("fc_cb"), r"GLMC on resnet20 lacks 2 of its 122 tensors: fc_cb.weight, fc_cb.bias;"),
        (without("layer3"), r"lacks 36 of its 122 tensors: layer3.0.conv1.weight, layer3.0.bn1.weight, .*, \.\.\.;"),
        (without("bn1.num_batches"), r"lacks 1 of its 122 tensors: bn1.num_batches_tracked;"),
        (without("conv1."), r"on resnet20_w64 lacks 1 of its 122 tensors: conv1.weight;"),
        (with_(fc__bias=torch.zeros(4)), "has 1 of its 122 tensors in another shape or type: fc.bias;"),
        (with_(fc_cb__weight=torch.tensor(1.0)), "in another shape or type: fc.weight, fc.bias, fc_cb.weight, "),
        (with_(fc_cb__weight=torch.empty(0, 64)), "in another shape or type: fc.weight, fc.bias, fc_cb.weight, "),
        (with_(fc__bias=torch.zeros(3, dtype=torch.int64)), "another shape or type: fc.bias;"),
        (with_(fc__bias=torch.zeros(3).to_sparse()), "another shape or type: fc.bias;"),
        (with_(fc__bias="none"), "another shape or type: fc.bias;"),
        (with_(conv1__weight=torch.zeros(16, 5, 3, 3)), "another shape or type: conv1.weight;"),
        (with_(conv1__weight=torch.zeros(32, 3, 3, 3)), "begins with 32 channels, .* 16 or 64 channels here;"),
        (with_(layer1__3__conv1__weight=torch.zeros(1)), "ResNet of 4 blocks a stage"),
        (with_(scale=torch.ones(3)), "has 1 too many beside its 122 tensors: scale;"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_damaged_states_say_what_is_wrong(file, damage, said):
    save(file, damage(random_state("resnet20", 3)))
    assert re.search(said, complaint(file))


def test_missing_tensors_of_the_other_families_have_their_published_names(file):
    save(file, without("conv1.1", "conv4_x.1.residual_function.4")(random_state("resnet18_small", 3)))
    assert "lacks 10 of its 128 tensors: conv1.1.weight, conv1.1.bias, conv1.1.running_mean, ...;" in complaint(file)
    save(file, without("layer2.0.downsample")(random_state("resnext50_32x4d", 3, images(32))))
    assert "lacks 6 of its 326 tensors: layer2.0.downsample.0.weight, " in complaint(file)


@pytest.mark.parametrize(("key", "value"), [("epoch", "200"), ("best_acc1", [1.0]), ("epoch", torch.ones(2))])
def test_a_number_that_is_none_is_refused(file, key, value):
    torch.save({"state_dict": random_state("resnet20", 3), key: value}, file)
    assert f"says {key}, which should be a number, as a " in complaint(file)


def test_only_glmc_on_the_published_networks_is_written(file):
    method = of_glmc(build_backbone("resnet20"), torch.tensor([3, 2]))
    state = method.state_dict()
    with pytest.raises(UserError, match=r"no place for the network convnext_atto"):
        write(file, state, "convnext_atto.d2_in1k", epoch=1, best_acc1=0)
    with pytest.raises(UserError, match=r"on resnet32 lacks 72 of its 194 tensors: backbone.net.layer1.3.conv1.weight"):
        write(file, state, "resnet32", epoch=1, best_acc1=0)
    plain = {key: t for key, t in state.items() if not key.startswith(("rebalanced", "projector", "predictor"))}
    with pytest.raises(UserError, match=r"lacks 6 of its 122 tensors: rebalanced.weight"):
        write(file, plain, "resnet20", epoch=1, best_acc1=0)
    assert not file.exists()


def test_a_folder_that_is_not_there_is_said(tmp_path):
    state = of_glmc(build_backbone("resnet20"), torch.tensor([3, 2])).state_dict()
    with pytest.raises(UserError, match="could not be written"):
        write(tmp_path / "absent" / "ckpt.pth.tar", state, "resnet20", epoch=1, best_acc1=0)
