"""The forms, in groups: a form is one entry, and its row on the page follows from what becomes of it."""

from __future__ import annotations

from tests.forms.form import Form
from tests.nets import CONVERTIBLE

_SIZES = "a number: sizes are known when the network is captured"
_OUT = "taken out"
_FLAT = "`Flatten`"
_OPENED = "opened"
_PERMANENT = "made permanent on the copy"
_MOVED = "shifted and scaled by the layers around it"
_TAIL = "the tail, which stays as it is"
_FOLDED = "folded into the layer in front of it"
_SUM = "`SpikeAdd`: neurons that add up several inputs"
_PAIR = "a pair of `SpikeConv2d`, one for each sign, on a chip that has pairs"
_WIRING = "wiring, which has no neurons"
_UP = "`SpikeConv2d` of the same kernel, that reads zeros between the places of maps"
_SIGNALS = (2, 24)
_VECTORS = (20,)
_SAME = "self.same = nn.Conv2d(6, 6, 3, padding=1)"

# fmt: off
FORWARD = (
    Form("assert x.shape[1] == 3", _SIZES, "images"),
    Form("if x.dim() == 3:\n    x = x.unsqueeze(0)", _SIZES, "images"),
    Form("x = x.view(-1, 3, 8, 8)", _OUT, "images"),
    Form("x = x.to(self.fc.weight.device).contiguous()", _OUT, "images"),
    Form("x = x.unsqueeze(1).squeeze(1)", _OUT, "images"),
    Form("x = x.flatten(2).unflatten(2, (8, 8))", _OUT, "images"),
    Form("x = x.squeeze(2)", _OUT, "images"),
    Form("x = x.view(x.size(0), -1)", _FLAT, "flatten"),
    Form("x = x.view(len(x), int(np.prod(x.shape[1:])))", _FLAT, "flatten"),
    Form("x = x.reshape(-1, 54)", _FLAT, "flatten"),
    Form("count = 1\nfor size in x.size()[1:]:\n    count *= size\nx = x.view(-1, count)", _FLAT, "flatten"),
    Form("x = nn.ReLU()(x)", "`ReLU`: what is made in forward is kept"),
    Form("F.relu(x, inplace=True)", "`ReLU`: what is written in place is read"),
    Form("for layer in self.layers:\n    x = layer(x)", "the layers, under names of their own",
         made="self.layers = [nn.ReLU(), nn.Dropout().eval()]  # a plain list"),
    Form("x = self.fc(x) + 0.1 * torch.rand(1)", at="classifier", refused="other outputs at every call"),
    Form("if x.sum() > 0:\n    x = -x", at="images", refused="cannot trace"),
    Form("if x.shape[0] > 64:\n    x = x[:64]", at="images", refused="cannot trace"),
    Form("if type(x) is Tensor:\n    x = 2 * x", at="images", refused="is not the network"),
)

WRAPPERS = (
    Form("model = nn.DataParallel(model)", _OPENED, "model"),
    Form("model.conv = nn.DataParallel(model.conv)", _OPENED, "model"),
    Form("model = torch.compile(model)", _OPENED, "model"),
    Form("model.conv = torch.compile(model.conv)", _OPENED, "model"),
    Form("parametrizations.weight_norm(model.conv)", _PERMANENT, "model"),
    Form("parametrizations.spectral_norm(model.conv)", _PERMANENT, "model"),
    Form("nn.utils.spectral_norm(model.conv)", _PERMANENT, "model"),
    Form('prune.l1_unstructured(model.conv, "weight", 0.5)', _PERMANENT, "model"),
    Form("model.train()", "converted as it computes in evaluation mode", "model"),
    Form("model.register_forward_hook(lambda module, inputs, output: None)", "left behind, with a warning", "model"),
    Form("model.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 3,))", at="model", refused="hook"),
    Form("model = torch.jit.trace(model, images)", at="model", refused="TorchScript"),
)

LAYERS = (
    Form("self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1, dilation=2, groups=3)", "`SpikeConv2d`", "made"),
    Form("self.conv = nn.LazyConv2d(6, 3)", "`SpikeConv2d`, once it has been run", "made"),
    Form("nn.Sequential(nn.LazyConv2d(6, 3), nn.ReLU())", at="network", refused="has no weights yet"),
    Form("class Conv(nn.Conv2d):\n    def __init__(self, here, there):\n        super().__init__(here, there, 3)\n"
         "self.conv = Conv(3, 6)", "`SpikeConv2d`: its forward is inherited", "made"),
    Form("class Conv(nn.Conv2d):\n    def forward(self, x):\n        return x + super().forward(x)\n"
         "self.conv = Conv(3, 3, 1)", _SUM, "made"),
    Form("self.conv = fxsnn.SpikeConv2d(3, 6, 3)", "`Conv2d`", "made"),
    Form("x = self.norm(self.conv(x))", _FOLDED, "convolution", "self.norm = nn.BatchNorm2d(6)"),
    Form("model = nn.SyncBatchNorm.convert_sync_batchnorm(model)", "`BatchNorm2d`", "model",
         "self.conv = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))"),
    Form("x = F.relu(self.hidden(x.flatten(1)))", "`SpikeLinear`", "flatten", "self.hidden = nn.LazyLinear(20)"),
    Form("x = F.relu(self.norm(self.hidden(x.flatten(1))))", _FOLDED, "flatten",
         "self.hidden, self.norm = nn.LazyLinear(20), nn.BatchNorm1d(20)"),
    Form("x = F.dropout(x, 0.5, self.training)", _OUT, "pooling"),
    Form("x = F.dropout(x)", at="pooling", refused="at every call"),
    Form("x = nn.Identity()(x)", _OUT, "pooling"),
    Form("self.conv = nn.Conv2d(3, 6, 3, padding=1, padding_mode='reflect')", _WIRING + ", in front of it", "made"),
    Form("x = self.same(F.relu(self.same(F.relu(self.conv(x)))))", "a `SpikeConv2d` for each call", "convolution",
         _SAME),
    Form("x = F.conv2d(x, self.conv.weight, self.conv.bias)", "`SpikeConv2d`", "convolution"),
    Form("x = x.flatten(1) @ self.matrix\nx = F.relu(x)", "`SpikeLinear`", "flatten",
         "self.matrix = nn.Parameter(torch.randn(54, 20) / 8)"),
    Form("x = F.relu(torch.addmm(self.shift, x.flatten(1), self.matrix.t()))", "`SpikeLinear`", "flatten",
         "self.shift, self.matrix = nn.Parameter(torch.rand(20)), nn.Parameter(torch.randn(20, 54) / 8)"),
    Form('x = F.relu(torch.einsum("nf,of->no", x.flatten(1), self.matrix))', "`SpikeLinear`", "flatten",
         "self.matrix = nn.Parameter(torch.randn(20, 54) / 8)"),
    Form("x = self.one(self.conv(x))", "one `SpikeConv2d`: linear layers in a row are merged", "convolution",
         "self.one = nn.Conv2d(6, 6, 1)"),
    Form("self.conv = nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.BatchNorm2d(3), nn.Conv2d(3, 6, 1))",
         "one `SpikeConv2d`", "made"),
    Form("x = self.conv(F.avg_pool2d(x, 2))", "one `SpikeConv2d` with a kernel of 6x6", "convolution"),
    Form("x = self.same(self.conv(x))", _PAIR, "convolution", _SAME),
    Form("x = self.conv(x) + self.other(x)", _SUM, "convolution", "self.other = nn.Conv2d(3, 6, 3)"),
    Form("x = F.relu(x)\nx = x + F.relu(self.same(x))", _SUM, made=_SAME),
    Form("x = F.relu(x)\nx = F.relu(torch.sub(x, self.same(x), alpha=2))", _SUM, made=_SAME),
    Form("x = F.relu(x)\nx = F.relu(self.norm(x + self.same(x)))", f"{_SUM}; the batch norm is a part of it",
         made=f"{_SAME}\nself.norm = nn.BatchNorm2d(6)"),
    Form("x = F.relu(x)\nx = torch.cat([x, F.relu(self.other(x))], 1)", _WIRING,
         made="self.other = nn.Conv2d(6, 6, 1)"),
    Form("x = F.relu(self.few(F.relu(x)[:, ::2]))", _WIRING, made="self.few = nn.Conv2d(3, 3, 1)"),
    Form("x = F.relu(self.same(F.channel_shuffle(F.relu(x), 2)))", _WIRING, made=_SAME),
    Form("x = F.relu(self.same(F.interpolate(F.relu(x), scale_factor=2)))", _WIRING, made=_SAME),
    Form("x = F.relu(self.few(F.pixel_shuffle(F.relu(x).repeat_interleave(2, 1), 2)))", _WIRING,
         made="self.few = nn.Conv2d(3, 3, 1)"),
    Form("x = torch.cat([x.flatten(1), F.relu(self.one(x)).flatten(1)], 1)", _WIRING, "flatten",
         "self.one = nn.Conv2d(6, 6, 1)"),
    Form("x = F.relu(self.hidden(torch.cat([x.flatten(1)[:, ::2], x.mean([2, 3])], 1)))", _WIRING, "flatten",
         "self.hidden = nn.LazyLinear(20)"),
    Form("x = F.relu(self.up(F.relu(x)))", _UP, made="self.up = nn.ConvTranspose2d(6, 6, 3, stride=2, padding=1)"),
    Form("x = F.relu(self.up(F.relu(x), output_size=(12, 12)))", _UP,
         made="self.up = nn.ConvTranspose2d(6, 6, 3, stride=2, padding=1)"),
    Form("x = F.relu(F.conv_transpose2d(F.relu(x), self.matrix, stride=2))", _UP,
         made="self.matrix = nn.Parameter(torch.randn(6, 6, 2, 2) / 5)"),
    Form("x = F.relu(self.same(F.interpolate(F.relu(x), scale_factor=2, mode='bilinear')))", made=_SAME,
         refused="interpolate is not supported"),
)

POOLINGS = (
    Form("x = nn.AvgPool2d(2)(x)", "`SpikeAvgPool2d`", "pooling"),
    Form("x = F.avg_pool2d(x, 3, stride=1, padding=1)", "`SpikeAvgPool2d`", "pooling"),
    Form("x = F.avg_pool2d(x, x.size()[2:])", "`SpikeAvgPool2d` of that window", "pooling"),
    Form("x = F.adaptive_avg_pool2d(x, 1)", _TAIL, "pooling"),
    Form("x = x.mean([2, 3])", _TAIL, "pooling"),
    Form("x = self.same(F.adaptive_avg_pool2d(F.relu(self.conv(x)), 3))", "`SpikeAvgPool2d` with a fixed window",
         "convolution", _SAME),
    Form("x = F.relu(self.hidden(x.mean([2, 3])))", "`SpikeAvgPool2d` of the whole map, `Flatten`", "flatten",
         "self.hidden = nn.LazyLinear(20)"),
    Form("x = F.relu(self.hidden(x.view(x.size(0), x.size(1), -1).mean(2)))",
         "`SpikeAvgPool2d` of the whole map, `Flatten`", "flatten", "self.hidden = nn.LazyLinear(20)"),
    Form("x = F.relu(self.hidden(F.adaptive_avg_pool2d(x, 1)[:, :, 0, 0]))",
         "`SpikeAvgPool2d` of the whole map, `Flatten`", "flatten", "self.hidden = nn.LazyLinear(20)"),
    Form("x = F.relu(self.hidden(x.sum((2, 3)) / 9))", "`SpikeAvgPool2d`, and a scale in the layer that reads it",
         "flatten", "self.hidden = nn.LazyLinear(20)"),
    Form("x = self.same(F.lp_pool2d(F.relu(self.conv(x)), 1, 2))",
         "`SpikeAvgPool2d`, and a scale in the layer that reads it", "convolution", _SAME),
    Form("x = self.same(F.adaptive_avg_pool2d(F.relu(self.conv(x)), 4))", at="convolution", made=_SAME,
         refused="windows"),
    Form("x = self.same(F.avg_pool2d(F.relu(self.conv(x)), 2, ceil_mode=True))",
         "`SpikeAvgPool2d`: at this size that makes no difference", "convolution", _SAME),
    Form("x = self.same(F.avg_pool2d(F.relu(self.conv(x)), 2, divisor_override=3))",
         "`SpikeAvgPool2d`, and a scale in the layer that reads it", "convolution", _SAME),
    Form("x = F.max_pool2d(x, 2)", _TAIL, "pooling"),
    Form("x = self.same(F.max_pool2d(F.relu(self.conv(x)), 2))", at="convolution", made=_SAME,
         refused="MaxPool2d is not supported"),
)

MOVES = (
    Form("x = x / 255", "part of the first layer", "images"),
    Form("x = (x - self.mean) / self.std", "part of the first layer, which does not pad", "images",
         "self.mean, self.std = nn.Parameter(torch.rand(3, 1, 1)), nn.Parameter(torch.rand(3, 1, 1) + 0.5)"),
    Form("x = x[:, [2, 1, 0]]", "part of the first layer", "images"),
    Form("x = x[:, :1].repeat(1, 3, 1, 1)", "part of the first layer", "images"),
    Form("x = torch.stack([(x[:, i] - 0.45) / 0.22 for i in range(3)], 1)", "part of the first layer", "images"),
    Form("x = F.relu(x)", "a layer of neurons", "images"),
    Form("self.conv = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, padding=1))",
         "done by `Encode` before it rounds: the convolution pads", "made"),
    Form("x = self.same(0.25 * F.relu(self.conv(x)))", "part of the layers around it", "convolution", _SAME),
    Form("x = self.one(self.norm(F.relu(self.conv(x))))", "part of the layers around it", "convolution",
         "self.norm, self.one = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1)"),
    Form("x = self.norm(F.relu(x))", "behind the pooling, part of the tail", made="self.norm = nn.BatchNorm2d(6)"),
    Form("x = self.same(F.relu(self.conv(x)) + 1)", "neurons of its own: the convolution behind it pads",
         "convolution", _SAME),
    Form("x = self.same(self.norm(F.relu(self.conv(x))))", "neurons of its own, two a channel, one for each sign",
         "convolution", _SAME + "\nself.norm = nn.BatchNorm2d(6)"),
    Form("x = x * self.mask", at="images", made="self.mask = nn.Parameter(torch.rand(8, 8))",
         refused="not one finite number for each channel"),
    Form("self.conv = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 6, 3))", "padding of the convolution", "made"),
    Form("x = self.conv(F.pad(x, (0, 1, 0, 1)))", "padding of the convolution, each side by itself", "convolution"),
    Form("self.conv = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, 6, 3))", _WIRING, "made"),
)

ACTIVATIONS = (
    Form("x = torch.relu(x)", "`ReLU`"),
    Form("x = x.relu_()", "`ReLU`"),
    Form("nested blocks, one nn.ReLU(inplace=True) for all", "a `ReLU` for each call",
         build=CONVERTIBLE["one relu"], image=(3, 12, 12)),
    Form("x = self.relu(x)", "`ReLU`", made="self.relu = fxsnn.SpikeReLU()"),
    Form("x = F.relu(F.avg_pool2d(x, 2))", "taken out: what it reads is never negative", "pooling"),
    Form("x = torch.sigmoid(x)", refused="sigmoid"),
    Form("x = F.leaky_relu(x)", _PAIR),
    Form("x = F.rrelu(x, training=self.training)", _PAIR),
    Form("x = F.relu6(x)", "`BoundedReLU`, whose end is the threshold"),
    Form("x = F.hardtanh(x, 0, 1)", "`BoundedReLU`"),
    Form("x = x.clamp(0, 2)", "`BoundedReLU`"),
    Form("x = x.clamp(min=0)", "`ReLU`"),
    Form("x = torch.where(x > 0, x, 0)", "`ReLU`"),
    Form("x = x.clone()\nx[x < 0] = 0", "`ReLU`"),
    Form("x = torch.abs(x)", refused="abs is not supported"),
    Form("x = torch.floor(torch.clamp(x / self.up, 0, 1) * 4 + 0.5) / 4 * self.up", "`BoundedReLU` with 4 levels",
         made="self.up = nn.Parameter(torch.tensor(2.0))"),
    Form("x = torch.floor(torch.clamp(x / self.up, 0, 1) * 4) / 4 * self.up", f"`BoundedReLU` with 4 levels, {_MOVED}",
         made="self.up = nn.Parameter(torch.tensor(2.0))"),
    Form("x = (x.clamp(0, 1) * 4 + 0.5).int().to(x.dtype) / 4", "`BoundedReLU` with 4 levels"),
    Form("x = F.hardsigmoid(x)", f"`BoundedReLU`, {_MOVED}"),
    Form("x = self.one(F.hardtanh(x))", f"`BoundedReLU`, {_MOVED}", made="self.one = nn.Conv2d(6, 6, 1)"),
    Form("x = x.clamp(max=1)", f"`ReLU`, {_MOVED}"),
    Form("x = F.relu(self.one(F.avg_pool2d(F.relu(x), 2).clamp(max=1)))",
         "`BoundedReLU` with neurons of its own, on a chip with sums", made="self.one = nn.Conv2d(6, 6, 1)"),
    Form("x = torch.min(F.relu(x), self.ends)", "`BoundedReLU`, scaled for each channel by the layers around it",
         made="self.ends = nn.Parameter(torch.rand(6, 1, 1) + 0.5)"),
)

DIMENSIONS = (
    Form("nn.Sequential(nn.Conv1d(2, 6, 5), nn.BatchNorm1d(6), nn.ReLU(), nn.AvgPool1d(2), nn.Flatten(),\n"
         "              nn.Linear(60, 5))", "`SpikeConv2d` on maps of one row", "network", image=_SIGNALS),
    Form("x = F.relu(self.signal(F.relu(self.rows(x)).squeeze(2)))", "`SpikeConv2d` on maps of one row", "pooling",
         "self.rows, self.signal = nn.Conv2d(6, 6, (6, 1)), nn.Conv1d(6, 6, 3)"),
    Form("x = F.relu(self.causal(F.relu(self.rows(x)).flatten(2))[:, :, :-2])", _WIRING, "pooling",
         "self.rows, self.causal = nn.Conv2d(6, 6, (6, 1)), nn.Conv1d(6, 6, 3, padding=2)"),
    Form("nn.Sequential(nn.Conv1d(2, 6, 5), nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv1d(6, 6, 3), nn.ReLU(),\n"
         "              nn.Flatten(), nn.Linear(228, 5))", _WIRING, "network", image=_SIGNALS),
    Form("nn.Sequential(nn.Linear(20, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 5))", "`SpikeLinear`",
         "network", image=_VECTORS),
    Form("nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 5))", "`SpikeLinear`", "network"),
    Form("nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))", at="network",
         refused="along its last axis"),
    Form("nn.Sequential(nn.Conv3d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1296, 5))", at="network",
         refused="Conv3d", image=(3, 8, 8, 8)),
    Form("x = x.view(-1, 3, 8, 8)", at="images", refused="Give images of shape [N, 3, 8, 8]", image=(192,)),
    Form("x = x.permute(0, 1, 3, 2)", at="images", refused="permute"),
)

TAILS = (
    Form("return F.log_softmax(x, dim=1)", _TAIL, "return"),
    Form("return torch.sigmoid(x)", _TAIL, "return"),
    Form("self.fc = nn.LazyLinear(1)", "one logit, of which the sign decides", "made"),
    Form("return x.squeeze(1)", _TAIL, "return", "self.fc = nn.LazyLinear(1)"),
    Form("x = torch.squeeze(F.adaptive_avg_pool2d(x, 1))", _TAIL, "flatten"),
    Form("return x.argmax(1)", _TAIL, "return"),
    Form("return x / 2", _TAIL, "return"),
    Form("return x, x.softmax(1)", _TAIL, "return"),
    Form('return {"logits": x, "class": x.argmax(1)}', _TAIL, "return"),
    Form("x = self.fc(self.more(x))", _TAIL, "classifier", "self.more = nn.LazyLinear(20)"),
    Form("x = torch.cat([self.fc(x), self.other(x)], 1)", _TAIL, "classifier", "self.other = nn.LazyLinear(3)"),
    Form("nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())",
         _TAIL, "network"),
    Form("x = self.fc(torch.tanh(self.more(x)))", at="classifier", made="self.more = nn.LazyLinear(20)",
         refused="tanh is not supported"),
    Form("nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())", _TAIL, "network"),
)

DATA = (
    Form("calibration_data=(images, labels)", "the images", "data"),
    Form("calibration_data=[images[:8], images[8:]]", "batch by batch", "data"),
    Form("calibration_data=DataLoader(TensorDataset(images, labels), 8)", "batch by batch", "data"),
    Form("calibration_data=iter([images[:8], images[8:]])", "read once", "data"),
    Form("calibration_data=images.byte()", at="data", refused="floating"),
    Form("calibration_data=images[0]", at="data", refused="expected [N, 3, H, W]"),
)
# fmt: on

GROUPS: dict[str, tuple[Form, ...]] = {
    "In forward": FORWARD,
    "Around the network": WRAPPERS,
    "Layers": LAYERS,
    "Poolings": POOLINGS,
    "Scales, shifts and padding": MOVES,
    "Activations": ACTIVATIONS,
    "Dimensions": DIMENSIONS,
    "The tail": TAILS,
    "Calibration data": DATA,
}
