"""MXNet. What tells its models from others stands here, where nothing of MXNet or NumPy is imported."""

from mme.frameworks.growth import Growth

# A folder with a file of such a name holds a model of MXNet.
WELL_KNOWN_FILES = ("*-symbol.json",)

# Measured for MXNet 1.9.1 (lean loading, naive engine, random weights, one 224 × 224 image), private MiB of the worker
# after load and two passes, beside what the estimate says:
#
#     model             params   private   estimate
#     tiny MLP             0.0       7.9        8.0
#     MobileNet 0.25       1.8      25.5       28.3
#     SqueezeNet           4.8      35.7       53.2
#     DenseNet-121        30.8      79.3       81.9
#     ResNet-18           44.6      81.8       97.1
#     Inception v3        91.1     146.9      148.2
#     ResNet-50           97.8     146.8      155.6
#     ResNet-152         230.5     282.7      301.5
#     VGG-11             506.8     561.0      605.5
GROWTH = Growth((".params",), 1.1, working_factor=10, most_working_mib=40, module="mxnet", import_mib=110)
