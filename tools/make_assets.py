"""Make ``fasterrcnn/assets`` (photographs, masks, backgrounds, hand-drawn labels) from scikit-image's sample images.

Run once by a maintainer; what it writes is committed, so neither users nor CI ever need scikit-image, SciPy or OpenCV:

    pip install opencv-python-headless scikit-image scipy
    python tools/make_assets.py SKIMAGE_DATA_FOLDER fasterrcnn/assets

``SKIMAGE_DATA_FOLDER`` is the folder ``skimage/data`` of the scikit-image 0.18 or 0.19 wheel, which carries the
pictures inside.

How every cut-out was made, so that anybody can redo or improve it:

* coins: watershed on the Sobel edges of the whole photograph, one label per coin; one coin that merges with a bright
  corner is drawn as an ellipse. The photograph is then cut at row 150 into the *upper half* (training) and the *unseen
  half* (test only).
* cat, astronaut, Falcon 9: GrabCut inside a hand-drawn rectangle with hand-drawn sure regions.
* cup and shuttle: outlines drawn by hand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage
from skimage import filters, measure, morphology, segmentation

COIN_SPLIT_ROW = 150  # the gap between the second and the third row of coins

CUP_OUTLINE = [  # saucer anticlockwise from the upper left, spoon, rim of the cup
    (182, 69), (163, 76), (137, 94), (114, 115), (96, 140), (84, 167), (77, 199), (78, 230), (84, 257), (98, 286),
    (117, 310), (144, 335), (179, 360), (221, 379), (255, 387), (290, 391), (328, 388), (367, 379), (401, 364), (432,
    341), (459, 307), (474, 272), (480, 238), (479, 211), (474, 184), (462, 153), (447, 130), (432, 113), (416, 103),
    (418, 98), (425, 79), (421, 70), (407, 67), (397, 73), (380, 52), (351, 31), (317, 20), (286, 18), (252, 22), (221,
    34), (200, 48),
]  # fmt: skip

SHUTTLE_OUTLINE = [
    (408, 0), (402, 8), (398, 20), (396, 35), (396, 62), (392, 46), (388, 42), (385, 46), (381, 60), (380, 85), (381,
    104), (378, 115), (378, 184), (360, 204), (355, 215), (355, 223), (376, 226), (381, 230), (368, 262), (367, 271),
    (371, 271), (388, 248), (390, 260), (398, 268), (405, 269), (410, 262), (416, 262), (425, 262), (426, 240), (436,
    240), (436, 250), (433, 262), (440, 264), (443, 270), (452, 270), (453, 263), (460, 261), (455, 250), (455, 233),
    (456, 225), (452, 212), (454, 190), (454, 60), (448, 44), (444, 40), (440, 46), (436, 57), (437, 48), (437, 35),
    (433, 18), (424, 0),
]  # fmt: skip

HELMET_RING = [
    (185, 149), (165, 148), (148, 152), (135, 160), (127, 172), (124, 182), (124, 200), (135, 220), (150, 235), (180,
    250), (250, 250), (290, 250), (302, 238), (300, 225), (290, 205), (275, 190), (256, 174), (220, 178), (186, 165),
]  # fmt: skip

GRABCUT = {
    # name: (photograph, rectangle around the object, regions surely inside, regions surely outside)
    "cat": (
        "chelsea.png",
        (25, 0, 380, 300),
        [[(90, 40), (300, 40), (340, 150), (250, 290), (100, 290), (60, 200)]],
        [[(395, 0), (451, 0), (451, 300), (370, 300)]],
    ),
    "rocket": ("rocket.jpg", (300, 120, 342, 405), [[(316, 150), (328, 150), (328, 395), (316, 395)]], []),
    "astronaut": (
        "astronaut.png",
        (15, 0, 420, 512),
        [
            [(190, 30), (270, 30), (280, 120), (170, 120)],
            [(120, 230), (300, 230), (300, 500), (60, 500), (70, 320)],
            HELMET_RING,
        ],
        [
            [(330, 0), (512, 0), (512, 270), (400, 300), (330, 180)],
            [(0, 0), (90, 0), (90, 170), (40, 230), (0, 250)],
        ],
    ),
}


def segment_coins(gray: np.ndarray) -> np.ndarray:
    """Label image of the 24 coins, int [H, W], 0 = background, numbered in reading order of their top edges."""
    smooth = ndimage.gaussian_filter(gray.astype(float), 2)
    background = ndimage.gaussian_filter(ndimage.minimum_filter(smooth, 75), 30)
    above = gray - background
    markers = np.zeros(gray.shape, int)
    markers[above < 22] = 1
    markers[above > 75] = 2
    mask = ndimage.binary_fill_holes(segmentation.watershed(filters.sobel(gray), markers) == 2)
    labels = measure.label(morphology.opening(mask, morphology.disk(3)))
    coins = np.zeros_like(labels)
    regions = [region for region in measure.regionprops(labels) if region.area >= 600]
    for number, region in enumerate(regions, start=1):
        coins[labels == region.label] = number
        if region.bbox[3] == gray.shape[1]:  # merged with the bright corner: the coin itself is this ellipse
            coins[coins == number] = 0
            ellipse = np.zeros(gray.shape, np.uint8)
            cv2.ellipse(ellipse, ((334.75, 43.75), (58.5, 56.0), 0.0), 1, -1)
            coins[ellipse == 1] = number
    return coins


def grabcut(image: np.ndarray, rectangle: tuple[int, ...], inside: list, outside: list) -> np.ndarray:
    """Mask bool [H, W] of the largest connected object GrabCut finds."""
    mask = np.full(image.shape[:2], cv2.GC_BGD, np.uint8)
    x1, y1, x2, y2 = rectangle
    mask[y1:y2, x1:x2] = cv2.GC_PR_FGD
    for polygon in outside:
        cv2.fillPoly(mask, [np.array(polygon)], cv2.GC_BGD)
    for polygon in inside:
        cv2.fillPoly(mask, [np.array(polygon)], cv2.GC_FGD)
    cv2.setRNGSeed(0)
    cv2.grabCut(image, mask, None, np.zeros((1, 65)), np.zeros((1, 65)), 8, cv2.GC_INIT_WITH_MASK)
    found = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8) * 255
    found = (cv2.medianBlur(found, 5) > 127).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(found)
    return ndimage.binary_fill_holes(labels == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA]))


def polygon_mask(image: np.ndarray, polygon: list[tuple[int, int]]) -> np.ndarray:
    mask = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.array(polygon)], 1)
    return mask.astype(bool)


def empty_plate(gray: np.ndarray, coins: np.ndarray) -> np.ndarray:
    """The photograph without coins, uint8 [H, W]: brightness continued as a membrane would, film grain on top."""
    hole = ndimage.binary_dilation(coins > 0, iterations=6)
    smooth = ndimage.gaussian_filter(gray.astype(float), 1.5)
    filled = np.where(hole, smooth[~hole].mean(), smooth)
    for _ in range(6000):  # heat flow until the holes are harmonic
        around = ndimage.uniform_filter(filled, 3, mode="nearest")
        filled = np.where(hole, around, smooth)
    grain = (gray - ndimage.gaussian_filter(gray.astype(float), 1.5))[~hole]
    rng = np.random.default_rng(0)
    return np.where(hole, filled + rng.choice(grain.clip(-8, 8), gray.shape), gray).clip(0, 255).astype(np.uint8)


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Masks are 8-bit PNGs whose pixel value is the number of the object (0 = none)."""
    cv2.imwrite(str(path), mask.astype(np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 9])


def main(source: Path, assets: Path) -> None:
    photos, masks, backgrounds = assets / "photos", assets / "masks", assets / "backgrounds"
    for folder in (photos, masks, backgrounds):
        folder.mkdir(parents=True, exist_ok=True)

    coins = cv2.imread(str(source / "coins.png"), cv2.IMREAD_GRAYSCALE)
    labels = segment_coins(coins)
    upper, lower = labels[:COIN_SPLIT_ROW], labels[COIN_SPLIT_ROW:]
    assert len(np.unique(upper)) == len(np.unique(lower)) == 13, "12 coins in each half"
    cv2.imwrite(str(photos / "coins_upper.png"), coins[:COIN_SPLIT_ROW], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    cv2.imwrite(str(photos / "coins_unseen.png"), coins[COIN_SPLIT_ROW:], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    write_mask(masks / "coins_upper.png", upper)
    plate = empty_plate(coins[:COIN_SPLIT_ROW], upper)
    cv2.imwrite(str(backgrounds / "coin_plate.png"), plate, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    boxes = [
        [int(region.bbox[1]), int(region.bbox[0]), int(region.bbox[3]), int(region.bbox[2])]
        for region in measure.regionprops(lower)
    ]
    text = ",\n".join("    " + json.dumps({"label": "coin", "box": box}) for box in boxes)
    (photos / "coins_unseen.json").write_text(
        '{\n  "image": "coins_unseen.png",\n  "objects": [\n' + text + "\n  ]\n}\n"
    )

    found = {}
    for file, *hints in GRABCUT.values():
        found[file] = found.get(file, np.zeros(1, np.uint8)) + grabcut(cv2.imread(str(source / file)), *hints).astype(
            np.uint8
        )
    found["coffee.png"] = polygon_mask(cv2.imread(str(source / "coffee.png")), CUP_OUTLINE).astype(np.uint8)
    shuttle = polygon_mask(cv2.imread(str(source / "astronaut.png")), SHUTTLE_OUTLINE)
    found["astronaut.png"][shuttle & (found["astronaut.png"] == 0)] = 2
    names = {"chelsea.png": "cat", "coffee.png": "coffee", "rocket.jpg": "rocket", "astronaut.png": "astronaut"}
    for file, name in names.items():
        image = cv2.imread(str(source / file))
        cv2.imwrite(str(photos / f"{name}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        write_mask(masks / f"{name}.png", found[file])

    camera = cv2.imread(str(source / "camera.png"), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(photos / "camera_unseen.jpg"), camera, [cv2.IMWRITE_JPEG_QUALITY, 85])
    for file in (
        "brick.png",
        "gravel.png",
        "grass.png",
        "clock_motion.png",
        "cell.png",
        "hubble_deep_field.jpg",
        "retina.jpg",
    ):
        image = cv2.imread(str(source / file))
        scale = 400 / max(image.shape[:2])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        cv2.imwrite(
            str(backgrounds / (file.split("_")[0].split(".")[0] + ".jpg")), image, [cv2.IMWRITE_JPEG_QUALITY, 82]
        )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
