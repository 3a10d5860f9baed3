"""State dicts with the names and shapes of released detectors, and naive forward passes of them.

Names and shapes were read from the modules in the repositories that `PublishedDetector.source`
names; nothing here uses our tables or modules. Weights are random.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
Weights = Mapping[str, Tensor]
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
C = 256
HEADS = 8


class Style(NamedTuple):
    """How a ResNet is called."""

    stem: str
    stem_norm: str
    stage: Callable[[int], str]
    norm: Callable[[str], str]
    """Name of the norm after a convolution."""
    shortcut: str


def torchvision_style(prefix: str) -> Style:
    """Names of torchvision."""

    def norm(conv: str) -> str:
        return conv.replace("downsample.0", "downsample.1").replace(".conv", ".bn")

    return Style(
        f"{prefix}.conv1", f"{prefix}.bn1", lambda i: f"{prefix}.layer{i}", norm, "downsample.0"
    )


def detectron2_style(prefix: str) -> Style:
    """Names of detectron2."""
    stem = f"{prefix}.stem.conv1"
    return Style(
        stem, f"{stem}.norm", lambda i: f"{prefix}.res{i + 1}", lambda c: f"{c}.norm", "shortcut"
    )


def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (outputs, inputs)} | ({f"{name}.bias": (outputs,)} if bias else {})


def norm(name: str, channels: int) -> Shapes:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def conv(name: str, inputs: int, outputs: int, side: int, bias: bool = True) -> Shapes:
    found: Shapes = {f"{name}.weight": (outputs, inputs, side, side)}
    return found | ({f"{name}.bias": (outputs,)} if bias else {})


def batch_norm(name: str, channels: int) -> Shapes:
    return norm(name, channels) | {
        f"{name}.running_mean": (channels,),
        f"{name}.running_var": (channels,),
    }


def attention(name: str) -> Shapes:
    found: Shapes = {f"{name}.in_proj_weight": (3 * C, C), f"{name}.in_proj_bias": (3 * C,)}
    return found | linear(f"{name}.out_proj", C, C)


def blocks(style: Style, depth: int) -> Iterator[tuple[str, int, int, int]]:
    """Yield name, inputs, planes and stride of every bottleneck."""
    inputs = 64
    for stage, number in enumerate(BLOCKS[depth]):
        planes = 64 * 2**stage
        for i in range(number):
            yield f"{style.stage(stage + 1)}.{i}", inputs, planes, 2 if i == 0 and stage else 1
            inputs = 4 * planes


def resnet(style: Style, depth: int = 50) -> Shapes:
    found = conv(style.stem, 3, 64, 7, bias=False) | batch_norm(style.stem_norm, 64)
    for block, inputs, planes, _ in blocks(style, depth):
        convs = [("conv1", inputs, planes, 1), ("conv2", planes, planes, 3)]
        convs.append(("conv3", planes, 4 * planes, 1))
        if inputs != 4 * planes:
            convs.append((style.shortcut, inputs, 4 * planes, 1))
        for name, a, b, side in convs:
            found |= conv(f"{block}.{name}", a, b, side, bias=False)
            found |= batch_norm(style.norm(f"{block}.{name}"), b)
    return found


def detr(encoder: int = 6, decoder: int = 6, queries: int = 100, depth: int = 50) -> Shapes:
    found = resnet(torchvision_style("backbone.0.body"), depth)
    found |= conv("input_proj", 2048, C, 1) | {"query_embed.weight": (queries, C)}
    for kind, count in (("encoder", encoder), ("decoder", decoder)):
        for i in range(count):
            layer = f"transformer.{kind}.layers.{i}"
            found |= attention(f"{layer}.self_attn")
            found |= attention(f"{layer}.multihead_attn") if kind == "decoder" else {}
            found |= linear(f"{layer}.linear1", C, 2048) | linear(f"{layer}.linear2", 2048, C)
            for n in range(1, 4 if kind == "decoder" else 3):
                found |= norm(f"{layer}.norm{n}", C)
    found |= norm("transformer.decoder.norm", C) | linear("class_embed", C, 92)
    return found | mlp("bbox_embed")


def mlp(name: str) -> Shapes:
    widths = (C, C, C, 4)
    found: Shapes = {}
    for i in range(3):
        found |= linear(f"{name}.layers.{i}", widths[i], widths[i + 1])
    return found


def deformable_detr(
    encoder: int = 6,
    decoder: int = 6,
    queries: int = 300,
    refine: bool = False,
    two_stage: bool = False,
) -> Shapes:
    found = resnet(torchvision_style("backbone.0.body"))
    for i, inputs in enumerate((512, 1024, 2048, 2048)):
        found |= conv(f"input_proj.{i}.0", inputs, C, 1 if i < 3 else 3)
        found |= norm(f"input_proj.{i}.1", C)
    found["transformer.level_embed"] = (4, C)
    for kind, count in (("encoder", encoder), ("decoder", decoder)):
        for i in range(count):
            layer = f"transformer.{kind}.layers.{i}"
            sampled = f"{layer}.self_attn" if kind == "encoder" else f"{layer}.cross_attn"
            found |= linear(f"{sampled}.sampling_offsets", C, 256)
            found |= linear(f"{sampled}.attention_weights", C, 128)
            found |= linear(f"{sampled}.value_proj", C, C) | linear(f"{sampled}.output_proj", C, C)
            found |= attention(f"{layer}.self_attn") if kind == "decoder" else {}
            found |= linear(f"{layer}.linear1", C, 1024) | linear(f"{layer}.linear2", 1024, C)
            for n in range(1, 4 if kind == "decoder" else 3):
                found |= norm(f"{layer}.norm{n}", C)
    return found | _first_queries(queries, two_stage) | _predictors(decoder, refine, two_stage)


def _first_queries(queries: int, two_stage: bool) -> Shapes:
    if not two_stage:
        found: Shapes = {"query_embed.weight": (queries, 512)}
        return found | linear("transformer.reference_points", C, 2)
    found = linear("transformer.enc_output", C, C) | norm("transformer.enc_output_norm", C)
    return (
        found | linear("transformer.pos_trans", 512, 512) | norm("transformer.pos_trans_norm", 512)
    )


def _predictors(decoder: int, refine: bool, two_stage: bool) -> Shapes:
    found: Shapes = {}
    for i in range(decoder + two_stage):
        for prefix in ("", *["transformer.decoder."] * refine):
            found |= mlp(f"{prefix}bbox_embed.{i}")
        for prefix in ("", *["transformer.decoder."] * two_stage):
            found |= linear(f"{prefix}class_embed.{i}", C, 91)
    return found


def sparse_rcnn(stages: int = 6, queries: int = 300) -> Shapes:
    found = resnet(detectron2_style("backbone.bottom_up"))
    for i in range(4):
        found |= conv(f"backbone.fpn_lateral{i + 2}", 256 * 2**i, C, 1)
        found |= conv(f"backbone.fpn_output{i + 2}", C, C, 3)
    found["init_proposal_features.weight"] = (queries, C)
    found["init_proposal_boxes.weight"] = (queries, 4)
    for i in range(stages):
        head = f"head.head_series.{i}"
        found |= attention(f"{head}.self_attn")
        found |= linear(f"{head}.inst_interact.dynamic_layer", C, 2 * C * 64)
        found |= norm(f"{head}.inst_interact.norm1", 64) | norm(f"{head}.inst_interact.norm2", C)
        found |= linear(f"{head}.inst_interact.out_layer", 49 * C, C)
        found |= norm(f"{head}.inst_interact.norm3", C)
        found |= linear(f"{head}.linear1", C, 2048) | linear(f"{head}.linear2", 2048, C)
        for n in (1, 2, 3):
            found |= norm(f"{head}.norm{n}", C)
        for module, layers in (("cls_module", 1), ("reg_module", 3)):
            for layer in range(layers):
                found |= linear(f"{head}.{module}.{3 * layer}", C, C, bias=False)
                found |= norm(f"{head}.{module}.{3 * layer + 1}", C)
        found |= linear(f"{head}.class_logits", C, 80) | linear(f"{head}.bboxes_delta", C, 4)
    return found


def poto() -> Shapes:
    found = resnet(detectron2_style("backbone.bottom_up"))
    for i in range(3):
        found |= conv(f"backbone.fpn_lateral{i + 3}", 512 * 2**i, C, 1)
        found |= conv(f"backbone.fpn_output{i + 3}", C, C, 3)
    for i in (6, 7):
        found |= conv(f"backbone.top_block.p{i}", C, C, 3)
    for name in ("cls_subnet", "bbox_subnet"):
        for i in range(4):
            found |= conv(f"head.{name}.{3 * i}", C, C, 3) | norm(f"head.{name}.{3 * i + 1}", C)
    found |= conv("head.cls_score", C, 80, 3) | conv("head.bbox_pred", C, 4, 3)
    return found | {f"head.scales.{i}.scale": (1,) for i in range(5)}


def filled(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Random weights; names that are copies of others in the released code get equal values."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    refined = any(key.startswith("transformer.decoder.bbox_embed.") for key in shapes)
    for key, shape in shapes.items():
        original = key.removeprefix("transformer.decoder.") if "_embed." in key else key
        parts = original.split(".")
        if parts[0] in ("class_embed", "bbox_embed") and parts[1].isdigit() and not refined:
            original = ".".join([parts[0], "0", *parts[2:]])
        if original in found:
            found[key] = found[original].clone()
        elif len(shape) > 1 and not key.startswith(("query", "init_proposal", "transformer.level")):
            scale = 1 / math.sqrt(math.prod(shape[1:]))
            found[key] = torch.randn(shape, generator=generator) * scale
        elif key == "init_proposal_boxes.weight":
            found[key] = 0.2 + 0.5 * torch.rand(shape, generator=generator)
        elif key.endswith(("running_var", ".weight")) and len(shape) == 1:
            found[key] = 0.5 + torch.rand(shape, generator=generator)
        else:
            found[key] = 0.3 * torch.randn(shape, generator=generator)
    return found


class Naive:
    """Layers by their published names."""

    def __init__(self, weights: Weights) -> None:
        self.w = weights

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        mean, var = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.w[f"{name}.weight"]
        return F.conv2d(x, weight, self.w.get(f"{name}.bias"), stride, weight.shape[-1] // 2)

    def batch_norm(self, name: str, x: Tensor) -> Tensor:
        w, b, mean, var = (
            self.w[f"{name}.{part}"][:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / (var + 1e-5).sqrt() * w + b

    def resnet(self, style: Style, images: Tensor, caffe: bool = False) -> list[Tensor]:
        """C2 to C5 of images [B, 3, H, W] uint8.

        With `caffe`, pictures are BGR with a deviation of 1, and the first 1x1 convolution of a
        block has the stride.
        """
        mean = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
        x = images - mean
        x = x.flip(1) if caffe else x / torch.tensor([58.395, 57.12, 57.375])[:, None, None]
        x = self.batch_norm(style.stem_norm, self.conv(style.stem, x, 2)).relu()
        x, maps = F.max_pool2d(x, 3, 2, 1), dict[str, Tensor]()
        for block, inputs, planes, stride in blocks(style, 50):
            y, names = x, [f"{block}.conv{i}" for i in (1, 2, 3)]
            for i, name in enumerate(names):
                step = stride if i == (0 if caffe else 1) else 1
                y = self.batch_norm(style.norm(name), self.conv(name, y, step))
                y = y.relu() if i < 2 else y
            if inputs != 4 * planes:
                name = f"{block}.{style.shortcut}"
                x = self.batch_norm(style.norm(name), self.conv(name, x, stride))
            x = (x + y).relu()
            maps[block.rsplit(".", 1)[0]] = x
        return [*maps.values()]

    def attention(self, name: str, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Multi-head attention of [B, N, C] to [B, S, C]."""
        weight, bias = self.w[f"{name}.in_proj_weight"], self.w[f"{name}.in_proj_bias"]
        q, k, v = (
            (x @ weight[i * C : (i + 1) * C].T + bias[i * C : (i + 1) * C])
            .view(*x.shape[:2], HEADS, C // HEADS)
            .transpose(1, 2)
            for i, x in enumerate((query, key, value))
        )
        share = (q @ k.transpose(-1, -2) / math.sqrt(C // HEADS)).softmax(-1)
        return self.linear(f"{name}.out_proj", (share @ v).transpose(1, 2).flatten(2))

    def feed(self, layer: str, x: Tensor, norm: str) -> Tensor:
        hidden = self.linear(f"{layer}.linear1", x).relu()
        return self.norm(f"{layer}.{norm}", x + self.linear(f"{layer}.linear2", hidden))

    def mlp(self, name: str, x: Tensor) -> Tensor:
        for i in range(3):
            x = self.linear(f"{name}.layers.{i}", x)
            x = x.relu() if i < 2 else x
        return x


def sine(height: int, width: int, shift: float) -> Tensor:
    """Positions of DETR, cell by cell: [height * width, C]; `shift` is added to the index."""
    found = torch.zeros(height, width, C)
    for i in range(height):
        for j in range(width):
            for half, at in enumerate(((i + shift) / height, (j + shift) / width)):
                for k in range(C // 2):
                    angle = at * 2 * math.pi / 10000 ** (2 * (k // 2) / (C // 2))
                    value = math.sin(angle) if k % 2 == 0 else math.cos(angle)
                    found[i, j, half * C // 2 + k] = value
    return found.flatten(0, 1)


def forward_detr(weights: Weights, images: Tensor, layers: tuple[int, int]) -> tuple[Tensor, ...]:
    """Logits [B, N, 92] and boxes (x, y, w, h) in [0, 1] of DETR."""
    net = Naive(weights)
    last = net.conv("input_proj", net.resnet(torchvision_style("backbone.0.body"), images)[-1])
    place = sine(last.shape[-2], last.shape[-1], 1.0)
    memory = last.flatten(2).transpose(1, 2)
    for i in range(layers[0]):
        layer = f"transformer.encoder.layers.{i}"
        q = memory + place
        memory = net.norm(
            f"{layer}.norm1", memory + net.attention(f"{layer}.self_attn", q, q, memory)
        )
        memory = net.feed(layer, memory, "norm2")
    query = weights["query_embed.weight"]
    x = torch.zeros(len(images), *query.shape)
    for i in range(layers[1]):
        layer = f"transformer.decoder.layers.{i}"
        q = x + query
        x = net.norm(f"{layer}.norm1", x + net.attention(f"{layer}.self_attn", q, q, x))
        found = net.attention(f"{layer}.multihead_attn", x + query, memory + place, memory)
        x = net.feed(layer, net.norm(f"{layer}.norm2", x + found), "norm3")
    x = net.norm("transformer.decoder.norm", x)
    return net.linear("class_embed", x), net.mlp("bbox_embed", x).sigmoid()


def sampled(
    net: Naive, name: str, query: Tensor, reference: Tensor, maps: list[Tensor], cells: Tensor
) -> Tensor:
    """Deformable attention with 4 points per head and level; `maps` only give the sizes."""
    batch, count, levels = query.shape[0], query.shape[1], len(maps)
    value = net.linear(f"{name}.value_proj", cells)
    offsets = net.linear(f"{name}.sampling_offsets", query)
    offsets = offsets.view(batch, count, HEADS, levels, 4, 2)
    share = net.linear(f"{name}.attention_weights", query).view(batch, count, HEADS, levels * 4)
    share = share.softmax(-1).view(batch, count, HEADS, levels, 4)
    found, start = torch.zeros(batch, count, HEADS, C // HEADS), 0
    for level, each in enumerate(maps):
        height, width = each.shape[-2:]
        part = value[:, start : start + height * width]
        start += height * width
        part = part.transpose(1, 2).reshape(batch * HEADS, C // HEADS, height, width)
        step = offsets[:, :, :, level]
        if reference.shape[-1] == 2:
            at = reference[:, :, None, None] + step / torch.tensor([width, height])
        else:
            at = reference[:, :, None, None, :2] + step / 4 * reference[:, :, None, None, 2:] / 2
        grid = (2 * at - 1).transpose(1, 2).flatten(0, 1)
        read = F.grid_sample(part, grid, align_corners=False)
        read = read.view(batch, HEADS, C // HEADS, count, 4).permute(0, 3, 1, 4, 2)
        found += (read * share[:, :, :, level, :, None]).sum(3)
    return net.linear(f"{name}.output_proj", found.flatten(2))


def forward_poto(weights: Weights, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, N, 80] and boxes [B, N, 4], corners in pixels, of all cells of five levels."""
    net, logits, boxes = Naive(weights), list[Tensor](), list[Tensor]()
    maps = net.resnet(detectron2_style("backbone.bottom_up"), images, caffe=True)[1:]
    merged = [net.conv(f"backbone.fpn_lateral{i + 3}", x) for i, x in enumerate(maps)]
    for i in (1, 0):
        merged[i] = merged[i] + F.interpolate(merged[i + 1], scale_factor=2.0)
    levels = [net.conv(f"backbone.fpn_output{i + 3}", x) for i, x in enumerate(merged)]
    levels.append(net.conv("backbone.top_block.p6", levels[-1], 2))
    levels.append(net.conv("backbone.top_block.p7", levels[-1].relu(), 2))
    for level, x in enumerate(levels):
        cls, box, stride = x, x, 8 * 2**level
        for i in (0, 3, 6, 9):
            cls, box = (
                group_norm(net, f"head.{name}.{i + 1}", net.conv(f"head.{name}.{i}", y)).relu()
                for name, y in (("cls_subnet", cls), ("bbox_subnet", box))
            )
        logits.append(net.conv("head.cls_score", cls).flatten(2).transpose(1, 2))
        raw = net.conv("head.bbox_pred", box) * weights[f"head.scales.{level}.scale"]
        sides = raw.relu().flatten(2).transpose(1, 2) * stride
        y, at = torch.meshgrid(*map(torch.arange, x.shape[-2:]), indexing="ij")
        center = (torch.stack([at, y], -1).flatten(0, 1) + 0.5) * stride
        boxes.append(torch.cat([center - sides[..., :2], center + sides[..., 2:]], -1))
    return torch.cat(logits, 1), torch.cat(boxes, 1)


def group_norm(net: Naive, name: str, x: Tensor) -> Tensor:
    parts = x.view(len(x), 32, C // 32, *x.shape[2:])
    mean = parts.mean((2, 3, 4), keepdim=True)
    var = parts.var((2, 3, 4), unbiased=False, keepdim=True)
    x = ((parts - mean) / (var + 1e-5).sqrt()).flatten(1, 2)
    return x * net.w[f"{name}.weight"][:, None, None] + net.w[f"{name}.bias"][:, None, None]


def inverse_sigmoid(x: Tensor) -> Tensor:
    x = x.clamp(0, 1)
    return (x.clamp(min=1e-5) / (1 - x).clamp(min=1e-5)).log()


def forward_deformable_detr(
    weights: Weights, images: Tensor, layers: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Logits [B, N, 91] and boxes (x, y, w, h) in [0, 1] of Deformable DETR."""
    net = Naive(weights)
    read = net.resnet(torchvision_style("backbone.0.body"), images)[1:]
    maps = [
        group_norm(net, f"input_proj.{i}.1", net.conv(f"input_proj.{i}.0", x, 1 if i < 3 else 2))
        for i, x in enumerate([*read, read[-1]])
    ]
    cells = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)
    embed = weights["transformer.level_embed"]
    place = torch.cat(
        [sine(x.shape[-2], x.shape[-1], 0.5) + e for x, e in zip(maps, embed, strict=True)]
    )
    centers = torch.tensor(
        [
            [(j + 0.5) / x.shape[-1], (i + 0.5) / x.shape[-2]]
            for x in maps
            for i in range(x.shape[-2])
            for j in range(x.shape[-1])
        ]
    ).expand(len(images), -1, -1)
    for i in range(layers[0]):
        layer = f"transformer.encoder.layers.{i}"
        found = sampled(net, f"{layer}.self_attn", cells + place, centers, maps, cells)
        cells = net.feed(layer, net.norm(f"{layer}.norm1", cells + found), "norm2")
    query, x, reference = _start(net, maps, cells, centers, layers[1])
    refine = "transformer.decoder.bbox_embed.0.layers.0.weight" in weights
    for i in range(layers[1]):
        layer = f"transformer.decoder.layers.{i}"
        q = x + query
        x = net.norm(f"{layer}.norm2", x + net.attention(f"{layer}.self_attn", q, q, x))
        found = sampled(net, f"{layer}.cross_attn", x + query, reference, maps, cells)
        x = net.feed(layer, net.norm(f"{layer}.norm1", x + found), "norm3")
        moved = net.mlp(f"bbox_embed.{i}", x)
        moved[..., : reference.shape[-1]] += inverse_sigmoid(reference)
        reference = moved.sigmoid() if refine else reference
    return net.linear(f"class_embed.{layers[1] - 1}", x), moved.sigmoid()


def _start(
    net: Naive, maps: list[Tensor], cells: Tensor, centers: Tensor, layers: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings, states and references of the queries."""
    if "query_embed.weight" in net.w:
        query, x = net.w["query_embed.weight"].expand(len(cells), -1, -1).chunk(2, 2)
        return query, x, net.linear("transformer.reference_points", query).sigmoid()
    sides = [0.05 * 2.0**i for i, x in enumerate(maps) for _ in range(x[0, 0].numel())]
    anchors = torch.cat([centers, torch.tensor(sides)[None, :, None].expand(len(cells), -1, 2)], 2)
    valid = ((anchors > 0.01) & (anchors < 0.99)).all(2, keepdim=True)
    memory = net.linear("transformer.enc_output", cells * valid)
    memory = net.norm("transformer.enc_output_norm", memory)
    start = (anchors / (1 - anchors)).log().masked_fill(~valid, float("inf"))
    logits = net.linear(f"class_embed.{layers}", memory)[..., 0].masked_fill(~valid[..., 0], -1e9)
    best = logits.topk(min(300, int(valid[0].sum())), dim=1).indices[..., None]
    boxes = (net.mlp(f"bbox_embed.{layers}", memory) + start).gather(1, best.expand(-1, -1, 4))
    angle = boxes.sigmoid()[..., None] * 2 * math.pi
    angle = angle / 10000 ** (torch.arange(64) / 64)
    at = torch.stack([angle.sin(), angle.cos()], -1).flatten(2)
    placed = net.norm("transformer.pos_trans_norm", net.linear("transformer.pos_trans", at))
    query, x = placed.chunk(2, 2)
    return query, x, boxes.sigmoid()


def forward_sparse_rcnn(
    weights: Weights, images: Tensor, pool: Callable[[list[Tensor], Tensor], Tensor], stages: int
) -> tuple[Tensor, Tensor]:
    """Logits [B, N, 80] and boxes (x, y, w, h) in [0, 1] of Sparse R-CNN.

    `pool` reads [B, N, 49, C] from four maps in boxes [B, N, 4], corners in pixels.
    """
    net = Naive(weights)
    maps = net.resnet(detectron2_style("backbone.bottom_up"), images)
    merged = [net.conv(f"backbone.fpn_lateral{i + 2}", x) for i, x in enumerate(maps)]
    for i in (2, 1, 0):
        merged[i] = merged[i] + F.interpolate(merged[i + 1], scale_factor=2.0)
    levels = [net.conv(f"backbone.fpn_output{i + 2}", x) for i, x in enumerate(merged)]
    size = torch.tensor([images.shape[3], images.shape[2]] * 2)
    x, y, w, h = weights["init_proposal_boxes.weight"].unbind(1)
    boxes = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1) * size
    boxes = boxes.expand(len(images), -1, -1)
    state = weights["init_proposal_features.weight"].expand(len(images), -1, -1)
    for i in range(stages):
        head = f"head.head_series.{i}"
        found = net.attention(f"{head}.self_attn", state, state, state)
        state = net.norm(f"{head}.norm1", state + found)
        first, second = net.linear(f"{head}.inst_interact.dynamic_layer", state).chunk(2, -1)
        found = pool(levels, boxes) @ first.view(*first.shape[:2], C, 64)
        found = net.norm(f"{head}.inst_interact.norm1", found).relu()
        found = net.norm(
            f"{head}.inst_interact.norm2", found @ second.view(*second.shape[:2], 64, C)
        )
        found = net.linear(f"{head}.inst_interact.out_layer", found.relu().flatten(2))
        found = net.norm(f"{head}.inst_interact.norm3", found).relu()
        state = net.feed(head, net.norm(f"{head}.norm2", state + found), "norm3")
        cls, box = state, state
        cls = net.norm(f"{head}.cls_module.1", net.linear(f"{head}.cls_module.0", cls)).relu()
        for j in (0, 3, 6):
            box = net.norm(f"{head}.reg_module.{j + 1}", net.linear(f"{head}.reg_module.{j}", box))
            box = box.relu()
        deltas = net.linear(f"{head}.bboxes_delta", box)
        sides = boxes[..., 2:] - boxes[..., :2]
        center = (boxes[..., :2] + boxes[..., 2:]) / 2 + deltas[..., :2] / 2 * sides
        sides = deltas[..., 2:].clamp(max=math.log(100000 / 16)).exp() * sides
        boxes = torch.cat([center - sides / 2, center + sides / 2], -1)
    return net.linear(f"{head}.class_logits", cls), torch.cat([center, sides], -1) / size
