"""Data sets of images, by name: where each comes from, and what is in it."""

from dataclasses import dataclass, replace

from benchmarks.data import shapes


@dataclass(frozen=True)
class ImageSource:
    """Where a data set of images comes from.

    Attributes:
        builder: name and version in tensorflow-datasets, or None for scikit-learn's digits and what is generated.
        shape: of an image: height, width, channels.
        classes: number of labels.
        train: images in the training split.
        test: images in the test split.
        validation: how many images of the training split make the validation part.
        test_split: what tensorflow-datasets calls the test part.
        module: of ours that adds the builder to tensorflow-datasets when it is imported, where it has none of its own.
        crop: for photographs, the side in pixels of what a network has of an image; None for other images. Photographs are
            squares out of the middle; in segmentation whole images, with void around them.
        manual: what has to be put where before, if the data cannot be downloaded.
        domains: of how many kinds images are. Where there are several, the cache's labels tell them: class + classes x domain.
        pooled: how many pixels of the original, a side, one pixel is the mean of.
        void: in segmentation, where a label is a mask with the class of each pixel, the one that stands for none; else None.
    """

    builder: str | None
    shape: tuple[int, int, int]
    classes: int
    train: int
    test: int
    validation: int
    test_split: str = "test"
    module: str | None = None
    crop: int | None = None
    manual: str | None = None
    domains: int = 1
    pooled: int = 1
    void: int | None = None

    def labels(self, count: int) -> tuple[str, tuple[int, ...]]:
        """Type and shape of the labels of so many images."""
        return ("int32", (count,)) if self.void is None else ("uint8", (count, *self.shape[:2]))


_DIGITS = ImageSource(None, (8, 8, 1), 10, 1_197, 600, validation=297)
_CIFAR100 = ImageSource("cifar100:3.0.2", (32, 32, 3), 100, 50_000, 10_000, validation=5_000)
_FASHION_MNIST = ImageSource("fashion_mnist:3.0.1", (28, 28, 1), 10, 60_000, 10_000, validation=5_000)
_IMAGEWOOF = ImageSource(
    "imagewoof/28px:2.0.0",
    (28, 28, 3),
    10,
    9_025,
    3_929,
    validation=1_025,
    test_split="validation",  # there are only two splits
    module="benchmarks.data.tfds_builders.imagewoof",
)
IMAGES = {
    "cifar10": ImageSource("cifar10:3.0.2", (32, 32, 3), 10, 50_000, 10_000, validation=5_000),
    "cifar100": _CIFAR100,
    "cifar100_16": replace(_CIFAR100, shape=(16, 16, 3), pooled=2),
    "digits": _DIGITS,
    "digits_rotated": replace(_DIGITS, domains=2),
    "fashion_mnist": _FASHION_MNIST,
    "fashion_mnist_14": replace(_FASHION_MNIST, shape=(14, 14, 1), pooled=2),
    "imagewoof_28": _IMAGEWOOF,
    "imagewoof_256": replace(_IMAGEWOOF, builder="imagewoof/256px:2.0.0", shape=(256, 256, 3), crop=224),
    "imagenet_256": ImageSource(
        "imagenet2012:5.1.0",
        (256, 256, 3),
        1_000,
        1_281_167,
        50_000,
        validation=25_000,
        test_split="validation",  # the labels of the official test split are secret
        crop=224,
        manual="put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, which image-net.org gives to those who "
        "register, into the folder downloads/manual there, then ",
    ),
    "mnist": ImageSource("mnist:3.0.1", (28, 28, 1), 10, 60_000, 10_000, validation=5_000),
    "coco_segmentation": ImageSource(
        "coco_segmentation:1.0.0",
        (480, 480, 3),
        21,
        92_518,
        5_000,
        validation=5_000,
        test_split="validation",  # the labels of the official test split are secret
        module="benchmarks.data.tfds_builders.coco_segmentation",
        crop=480,
        manual="put train2017.zip, val2017.zip and annotations_trainval2017.zip, which cocodataset.org gives, into the folder "
        "downloads/manual there, then ",
        void=255,
    ),
    "shapes": ImageSource(
        None, (shapes.SIDE, shapes.SIDE, 3), len(shapes.CLASSES), 2_400, 400, validation=400, void=shapes.VOID
    ),
    "svhn_cropped": ImageSource("svhn_cropped:3.1.0", (32, 32, 3), 10, 73_257, 26_032, validation=7_257),
    "tiny_imagenet": ImageSource(
        "tiny_imagenet:1.0.0",
        (64, 64, 3),
        200,
        100_000,
        10_000,
        validation=10_000,
        test_split="validation",  # the labels of the official test split are secret
        module="benchmarks.data.tfds_builders.tiny_imagenet",
    ),
    "voc_segmentation": ImageSource(
        "voc_segmentation:1.0.0",
        (480, 480, 3),
        21,
        1_464,
        1_449,
        validation=164,
        test_split="validation",  # the labels of the official test split are secret
        module="benchmarks.data.tfds_builders.voc_segmentation",
        crop=480,
        manual="put VOCtrainval_11-May-2012.tar, which host.robots.ox.ac.uk/pascal/VOC/voc2012 gives, into the folder "
        "downloads/manual there, then ",
        void=255,
    ),
}
_VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
# Where the label of an image is a mask: the names of the classes of its pixels, in the order of the labels.
CLASS_NAMES = {"shapes": shapes.CLASSES, "voc_segmentation": _VOC_CLASSES, "coco_segmentation": _VOC_CLASSES}
