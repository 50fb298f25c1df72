"""The forms, in groups: a form is one entry, and its row on the page follows from what becomes of it."""

from __future__ import annotations

from tests.forms.form import Form
from tests.nets import CONVERTIBLE

_SIZES = "a number: sizes are known when the network is captured"
_OUT = "taken out"
_FLAT = "`Flatten`"
_OPENED = "opened"
_PERMANENT = "made permanent on the copy"
_TAIL = "the tail, which stays as it is"
_FOLDED = "folded into the layer in front of it"
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
    Form("if isinstance(x, Tensor):\n    x = 2 * x", at="images", refused="is not the network"),
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
         "self.conv = Conv(3, 3, 1)", at="made", refused="add"),
    Form("self.conv = fxsnn.SpikeConv2d(3, 6, 3)", "`Conv2d`", "made"),
    Form("x = self.norm(self.conv(x))", _FOLDED, "convolution", "self.norm = nn.BatchNorm2d(6)"),
    Form("model = nn.SyncBatchNorm.convert_sync_batchnorm(model)", "`BatchNorm2d`", "model",
         "self.conv = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))"),
    Form("x = F.relu(self.hidden(x.flatten(1)))", "`SpikeLinear`", "flatten", "self.hidden = nn.LazyLinear(20)"),
    Form("x = F.relu(self.norm(self.hidden(x.flatten(1))))", _FOLDED, "flatten",
         "self.hidden, self.norm = nn.LazyLinear(20), nn.BatchNorm1d(20)"),
    Form("x = F.dropout(x, 0.5, self.training)", _OUT, "pooling"),
    Form("x = F.dropout(x)", at="pooling", refused="dropout"),
    Form("x = nn.Identity()(x)", _OUT, "pooling"),
    Form("self.conv = nn.Conv2d(3, 6, 3, padding=1, padding_mode='reflect')", at="made", refused="padding_mode"),
    Form("x = self.same(F.relu(self.same(F.relu(self.conv(x)))))", at="convolution",
         made=_SAME, refused="used 2 times"),
    Form("x = self.conv(x) + self.other(x)", at="convolution", made="self.other = nn.Conv2d(3, 6, 3)", refused="add"),
    Form("x = F.relu(x)\nx = x + F.relu(self.same(x))", made=_SAME,
         refused="branches"),
    Form("x = torch.cat([F.relu(x), F.relu(self.other(x))], 1)", made="self.other = nn.Conv2d(6, 6, 1)",
         refused="branches"),
)

POOLINGS = (
    Form("x = nn.AvgPool2d(2)(x)", "`SpikeAvgPool2d`", "pooling"),
    Form("x = F.avg_pool2d(x, 3, stride=1, padding=1)", "`SpikeAvgPool2d`", "pooling"),
    Form("x = F.avg_pool2d(x, x.size()[2:])", "`SpikeAvgPool2d` of that window", "pooling"),
    Form("x = F.adaptive_avg_pool2d(x, 1)", _TAIL, "pooling"),
    Form("x = x.mean([2, 3])", _TAIL, "pooling"),
    Form("x = F.max_pool2d(x, 2)", at="pooling", refused="max_pool2d is not supported"),
)

ACTIVATIONS = (
    Form("x = torch.relu(x)", "`ReLU`"),
    Form("x = x.relu_()", "`ReLU`"),
    Form("nested blocks, one nn.ReLU(inplace=True) for all", "a `ReLU` for each call",
         build=CONVERTIBLE["one relu"], image=(3, 12, 12)),
    Form("x = self.relu(x)", "`ReLU`", made="self.relu = fxsnn.SpikeReLU()"),
    Form("x = torch.sigmoid(x)", refused="sigmoid"),
    Form("x = F.leaky_relu(x)", refused="leaky_relu"),
    Form("x = self.one(x)", at="activation", made="self.one = nn.Conv2d(6, 6, 1)", refused="no ReLU of its own"),
)

DIMENSIONS = (
    Form("nn.Sequential(nn.Conv1d(2, 6, 5), nn.BatchNorm1d(6), nn.ReLU(), nn.AvgPool1d(2), nn.Flatten(),\n"
         "              nn.Linear(60, 5))", "`SpikeConv2d` on maps of one row", "network", image=_SIGNALS),
    Form("nn.Sequential(nn.Linear(20, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 5))", "`SpikeLinear`",
         "network", image=_VECTORS),
    Form("nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 5))", "`SpikeLinear`", "network"),
    Form("nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))", at="network",
         refused="along its last axis"),
    Form("nn.Sequential(nn.Conv3d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1296, 5))", at="network",
         refused="Conv3d", image=(3, 8, 8, 8)),
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
    "Activations": ACTIVATIONS,
    "Dimensions": DIMENSIONS,
    "The tail": TAILS,
    "Calibration data": DATA,
}
