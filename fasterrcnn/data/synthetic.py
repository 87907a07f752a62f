"""Scenes made of objects cut from photographs, pasted over photographic backgrounds: endless pictures with exactly
known boxes.

Item i of a set with a given seed is always the same picture: every random choice of item i comes from one generator
seeded with (seed, i), so sets need no storage, can be read in any order and by any number of workers.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageFilter

from fasterrcnn.data import cutouts
from fasterrcnn.types import Target

# Occlusion rule: of every object at least this part of its own pixels is seen, behind others and inside the image.
MIN_VISIBLE = 0.7
_MIN_SIDE = 10  # pixels; thinner boxes are not placed
_TRAY_SHARE = 0.3  # part of scenes that are trays of coins
_PHOTOGRAPH_SHARE = 0.15  # part of scenes that are the photographs themselves
_COIN_SHARE = 0.1  # of the objects of a collage; trays hold enough of them


class SyntheticScenes:
    """Generated detection data set over the classes coin, cat, cup, rocket, astronaut.

    Three kinds of scenes are mixed: *trays* (many coins, gray, on uneven surfaces, often in rows and touching),
    *collages* (two to five objects of any class on any background) and *photographs* (as they are, shifted and scaled).
    Coins come from the upper half of the coin photograph only; its lower half (``assets/photos/coins_unseen.png``) is
    never read here.

    Args:
        length: number of items.
        seed: different seeds give unrelated sets; training and held-out sets use different ones.
        size: (height, width) of the images in pixels.

    Example:
        >>> image, target = SyntheticScenes(length=10, seed=0)[3]
        >>> image.shape, target["boxes"].shape[1]
        (torch.Size([3, 192, 256]), 4)
    """

    class_names: tuple[str, ...] = cutouts.CLASS_NAMES

    def __init__(self, length: int, seed: int = 0, size: tuple[int, int] = (192, 256)) -> None:
        if length < 0 or seed < 0:
            raise ValueError(f"length and seed: expected integers ≥ 0, got {length} and {seed}")
        if min(size) < 64:
            raise ValueError(f"size: expected (height, width) of at least 64 pixels each, got {size}")
        self.length, self.seed, self.size = length, seed, size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Target]:
        """Image float32 [3, H, W] in 0…1 and its target; boxes are the extents of the *visible* pixels of each object.

        Raises:
            IndexError: index outside 0…length − 1.
        """
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} of a set of {self.length} scenes")
        rng = np.random.default_rng((self.seed, index))
        scene = _Scene(rng, *self.size)
        kind = rng.random()
        if kind < _TRAY_SHARE:
            _fill_tray(scene)
        elif kind < _TRAY_SHARE + _PHOTOGRAPH_SHARE:
            _fill_photograph(scene)
        else:
            _fill_collage(scene)
        # in NumPy: torch would start all its threads for these small copies, which costs more than it saves
        pixels = torch.from_numpy(np.ascontiguousarray(scene.finish().transpose(2, 0, 1)).astype(np.float32) / 255)
        boxes, labels = scene.ground_truth()
        return pixels, {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels)}


class _Scene:
    """A canvas that remembers which object each pixel belongs to.

    Attributes:
        canvas: float32 [H, W, 3], 0…255.
        owner: int16 [H, W], number of the object seen at each pixel, 0 = background.
        labels: label of object k at index k − 1.
        full: number of pixels object k has in all, hidden ones and those beyond the image included.
    """

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng, self.height, self.width = rng, height, width
        self.canvas = np.zeros((height, width, 3), np.float32)
        self.owner = np.zeros((height, width), np.int16)
        self.labels: list[int] = []
        self.full: list[int] = []
        self.gray = False

    def paste(
        self, label: int, picture: np.ndarray, x: int, y: int, *, min_visible: float = MIN_VISIBLE, shadow: float = 0
    ) -> bool:
        """Paste a float32 RGBA picture [h, w, 4] with its corner at (x, y), unless that would break the occlusion rule.

        Args:
            shadow: 0…1, how much the surroundings are darkened below and beside the object.

        Returns:
            whether it was pasted.
        """
        h, w = picture.shape[:2]
        x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, self.width), min(y + h, self.height)
        if x2 - x1 < _MIN_SIDE or y2 - y1 < _MIN_SIDE:
            return False
        solid = picture[..., 3] > 127
        part = picture[y1 - y : y2 - y, x1 - x : x2 - x]
        inside = part[..., 3] > 127
        full = int(solid.sum())
        if inside.sum() < min_visible * full or min(np.ptp(np.nonzero(inside), axis=1)) < _MIN_SIDE:
            return False
        owner = self.owner[y1:y2, x1:x2]
        if self.labels:
            seen = np.bincount(self.owner.ravel(), minlength=len(self.labels) + 1)[1:]
            lost = np.bincount(owner[inside], minlength=len(self.labels) + 1)[1:]
            if np.any(seen - lost < min_visible * np.array(self.full)):
                return False
        if shadow:
            self._cast_shadow(part[..., 3], x1, y1, shadow)
        alpha = part[..., 3:] / 255
        region = self.canvas[y1:y2, x1:x2]
        region += (part[..., :3] - region) * alpha
        self.labels.append(label)
        self.full.append(full)
        owner[inside] = len(self.labels)
        return True

    def _cast_shadow(self, alpha: np.ndarray, x: int, y: int, strength: float) -> None:
        mask = Image.new("L", (self.width // 2, self.height // 2))
        small = Image.fromarray(alpha.astype(np.uint8)).resize(
            (max(alpha.shape[1] // 2, 1), max(alpha.shape[0] // 2, 1))
        )
        dx, dy = self.rng.integers(-2, 3), self.rng.integers(-1, 4)
        mask.paste(small, (int(x // 2 + dx), int(y // 2 + dy)))
        mask = mask.filter(ImageFilter.GaussianBlur(float(self.rng.uniform(1.5, 5)))).resize((self.width, self.height))
        self.canvas *= 1 - strength * np.asarray(mask, np.float32)[..., None] / 255

    def ground_truth(self) -> tuple[np.ndarray, np.ndarray]:
        """Boxes float32 [M, 4] of the visible pixels and labels int64 [M], in pasting order."""
        boxes = np.zeros((len(self.labels), 4), np.float32)
        for number in range(1, len(self.labels) + 1):
            mask = self.owner == number
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            boxes[number - 1] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        return boxes, np.array(self.labels, np.int64)

    def finish(self) -> np.ndarray:
        """Camera effects over the whole picture (light, tint or gray, blur, noise); uint8 [H, W, 3]."""
        rng, canvas = self.rng, self.canvas
        if self.gray:
            canvas[...] = canvas @ np.array([[0.299], [0.587], [0.114]], np.float32)
        if rng.random() < 0.5:  # light falling off to one side
            angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.4)
            rows, columns = np.linspace(-0.5, 0.5, self.height), np.linspace(-0.5, 0.5, self.width)
            canvas *= (1 + strength * (np.sin(angle) * rows[:, None] + np.cos(angle) * columns))[..., None].astype(
                np.float32
            )
        canvas *= rng.uniform(0.8, 1.2)
        if rng.random() < 0.3:
            image = Image.fromarray(canvas.clip(0, 255).astype(np.uint8)).filter(
                ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2))
            )
            canvas = np.asarray(image, np.float32)
        if rng.random() < 0.6:
            canvas = canvas + rng.normal(0, rng.uniform(1, 7), (self.height, self.width, 1)).astype(np.float32)
        return canvas.clip(0, 255).astype(np.uint8)


def _fill_tray(scene: _Scene) -> None:
    """Coins, and nothing else: in loose rows or scattered, of one typical size with the natural spread around it."""
    rng = scene.rng
    scene.gray = rng.random() < 0.9
    scene.canvas[...] = (
        _coin_plate(rng, scene.height, scene.width)
        if rng.random() < 0.6
        else _background(rng, scene.height, scene.width)
    )
    coins = [cut for cut in cutouts.load_cutouts() if cut.label == 1]
    typical = float(np.exp(rng.uniform(np.log(26), np.log(80))))  # pixels, side of a coin of average size
    shadow = rng.uniform(0.2, 0.8) if rng.random() < 0.5 else 0.0
    if rng.random() < 0.6:
        pitch = typical * rng.uniform(1.15, 1.9)
        spread = pitch - 1.1 * typical
        ys = np.arange(rng.uniform(0.4, 0.9) * pitch, scene.height, pitch)
        xs = np.arange(rng.uniform(0.4, 0.9) * pitch, scene.width, pitch)
        places = [
            (x + rng.uniform(-spread, spread), y + rng.uniform(-spread, spread))
            for y in ys
            for x in xs
            if rng.random() < 0.85
        ]
    else:
        count = rng.integers(2, 25)
        places = list(zip(rng.uniform(0, scene.width, count), rng.uniform(0, scene.height, count), strict=True))
    tone = rng.uniform(0.75, 1.1)
    for x, y in places[:40]:
        coin = coins[rng.integers(len(coins))]
        side = typical * (coin.size / 44) ** rng.uniform(0.5, 1.2)  # 44 pixels: the middle size in the photograph
        picture = _vary(rng, coin, side, max_angle=180, tone=tone)
        # nearly no overlap: coins on a tray touch, they do not hide each other
        scene.paste(
            1, picture, int(x - picture.shape[1] / 2), int(y - picture.shape[0] / 2), min_visible=0.93, shadow=shadow
        )
    if not scene.labels:
        _place_somewhere(scene, coins[rng.integers(len(coins))], typical, 180)


def _fill_collage(scene: _Scene) -> None:
    """Two to five objects of any class over any background, with a few unlabelled patches as distraction."""
    rng = scene.rng
    scene.gray = rng.random() < 0.25
    scene.canvas[...] = _background(rng, scene.height, scene.width)
    if rng.random() < 0.4:
        _distract(scene)
    cuts = cutouts.load_cutouts()
    for _ in range(rng.integers(2, 6)):
        label = 1 if rng.random() < _COIN_SHARE else int(rng.integers(2, len(cutouts.CLASS_NAMES) + 1))
        same = [cut for cut in cuts if cut.label == label]
        cut = same[rng.integers(len(same))]
        if label == 1:
            side, angle = np.exp(rng.uniform(np.log(26), np.log(110))), 180
        else:
            # thin objects would vanish when small, and their boxes would be mostly empty when turned far
            smallest, angle = (0.65, 8) if cut.image.width < 0.2 * cut.image.height else (0.3, 15)
            side = scene.height * np.exp(rng.uniform(np.log(smallest), np.log(1.1)))
        _place_somewhere(scene, cut, float(side), angle)


def _fill_photograph(scene: _Scene) -> None:
    """A photograph shifted, scaled and perhaps mirrored: objects in the surroundings they were cut from."""
    rng = scene.rng
    scene.gray = rng.random() < 0.15
    photo = cutouts.load_photos()[rng.integers(len(cutouts.load_photos()))]
    fit = min(scene.height / photo.pixels.shape[0], scene.width / photo.pixels.shape[1])
    mirror = rng.random() < 0.5
    for attempt in range(6):
        # the last attempt shows all of it, and then the occlusion rule cannot fail
        scale = fit * rng.uniform(0.75, 1.0 if attempt == 5 else 1.6)
        size = round(photo.pixels.shape[1] * scale), round(photo.pixels.shape[0] * scale)
        numbers = np.asarray(Image.fromarray(photo.numbers).resize(size, Image.Resampling.NEAREST))[
            :, :: -1 if mirror else 1
        ]
        y, x = (
            int(rng.uniform(min(0, room), max(0, room) + 1)) for room in (scene.height - size[1], scene.width - size[0])
        )
        rows, columns = slice(max(-y, 0), scene.height - y), slice(max(-x, 0), scene.width - x)
        full = np.bincount(numbers.ravel(), minlength=len(photo.labels) + 1)[1:]
        seen = np.bincount(numbers[rows, columns].ravel(), minlength=len(photo.labels) + 1)[1:]
        if np.all(seen >= MIN_VISIBLE * full):
            break
    scene.canvas[...] = _background(rng, scene.height, scene.width)
    resized = np.asarray(Image.fromarray(photo.pixels).resize(size, Image.Resampling.BILINEAR), np.float32)
    pixels = resized[:, :: -1 if mirror else 1][rows, columns] * rng.uniform(0.7, 1.2)
    y, x = max(y, 0), max(x, 0)
    scene.canvas[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
    scene.owner[y : y + pixels.shape[0], x : x + pixels.shape[1]] = numbers[rows, columns]
    scene.labels, scene.full = list(photo.labels), full.tolist()


def _place_somewhere(scene: _Scene, cut: cutouts.CutOut, side: float, max_angle: float) -> None:
    """Paste where the occlusion rule allows it; give up after a few tries, but the first object always fits."""
    rng = scene.rng
    shadow = rng.uniform(0.1, 0.7) if rng.random() < 0.3 else 0.0
    for attempt in range(8):
        picture = _vary(rng, cut, side, max_angle=max_angle)
        h, w = picture.shape[:2]
        if attempt == 7 and not scene.labels:
            x, y = (scene.width - w) // 2, (scene.height - h) // 2
        else:
            x = int(rng.uniform(-0.2 * w, scene.width - 0.8 * w))
            y = int(rng.uniform(-0.2 * h, scene.height - 0.8 * h))
        if scene.paste(cut.label, picture, x, y, shadow=shadow):
            return
        side *= 0.88  # crowded: try smaller


def _vary(
    rng: np.random.Generator, cut: cutouts.CutOut, side: float, max_angle: float, tone: float | None = None
) -> np.ndarray:
    """A cut-out scaled to ``side`` pixels, flipped, turned, relit, sometimes blurred: float32 RGBA [h, w, 4]."""
    image = cut.image
    scale = side / max(image.size)
    stretch = rng.uniform(0.9, 1.1)
    size = max(round(image.width * scale * stretch), 4), max(round(image.height * scale / stretch), 4)
    image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if max_angle and rng.random() < 0.7:
        image = image.rotate(rng.uniform(-max_angle, max_angle), Image.Resampling.BICUBIC, expand=True)
    if rng.random() < 0.15:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.3)))
    picture = np.array(image, np.float32)
    colour = picture[..., :3]
    contrast, brightness = (
        rng.uniform(0.75, 1.25),
        rng.uniform(0.8, 1.2) if tone is None else tone * rng.uniform(0.9, 1.1),
    )
    tint = rng.uniform(0.9, 1.1, 3) if rng.random() < 0.5 else np.ones(3)
    if cut.label == 1 and tone is None and rng.random() < 0.4:
        tint = tint * np.array(
            [1.12, 0.95, rng.uniform(0.5, 0.9)]
        )  # coins are gray in their photograph, golden in the world
    colour[...] = ((colour - 120) * contrast + 120) * (brightness * tint)
    np.clip(colour, 0, 255, out=colour)
    return picture


def _coin_plate(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A random part of the coin photograph's own surface, float32 [H, W, 3]."""
    crop = _random_crop(rng, cutouts.load_coin_plate(), height, width)
    return (crop - crop.mean()) * rng.uniform(0.6, 1.5) + rng.uniform(25, 110)


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A background without objects, float32 [H, W, 3]: a plain one, or two of them mixed."""
    first = _plain_background(rng, height, width)
    if rng.random() < 0.25:
        first = first + (_plain_background(rng, height, width) - first) * rng.uniform(0.2, 0.6)
    return first


def _plain_background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    kind = rng.random()
    if kind < 0.2:  # gradient between two colours, with a little grain
        corners = rng.uniform(0, 255, (2, 2, 3)).astype(np.uint8)
        if rng.random() < 0.4:
            corners[...] = corners.mean(-1, keepdims=True).astype(np.uint8)
        smooth = np.asarray(Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR), np.float32)
        return smooth + rng.normal(0, rng.uniform(0.5, 10), (height, width, 1)).astype(np.float32)
    if kind < 0.3:
        return _coin_plate(rng, height, width)
    if kind < 0.6:
        photo = cutouts.load_photos()[rng.integers(1, len(cutouts.load_photos()))]  # the first one is full of coins
        for _ in range(12):  # find a part without object
            h = int(rng.uniform(0.15, 0.6) * photo.pixels.shape[0])
            w = min(int(h * width / height), photo.pixels.shape[1])
            y, x = rng.integers(photo.pixels.shape[0] - h + 1), rng.integers(photo.pixels.shape[1] - w + 1)
            if not photo.numbers[y : y + h, x : x + w].any():
                return _random_crop(rng, photo.pixels[y : y + h, x : x + w], height, width, least=0.9)
    if kind < 0.72:
        return _jigsaw(rng, height, width)
    pictures = cutouts.load_backgrounds()
    crop = _random_crop(rng, pictures[rng.integers(len(pictures))], height, width)
    if rng.random() < 0.5:
        crop *= rng.uniform(0.5, 1.2, 3).astype(np.float32)
    return crop


def _jigsaw(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A photograph cut into tiles and put together wrongly: the textures of the objects, but no object."""
    photo = cutouts.load_photos()[rng.integers(1, len(cutouts.load_photos()))]  # a tile of the first may hold a coin
    whole = _random_crop(rng, photo.pixels, height, width, least=0.6)
    rows, columns = (max(int(side / rng.uniform(20, 48)), 2) for side in (height, width))
    h, w = height // rows, width // columns
    tiles = [(y * h, x * w) for y in range(rows) for x in range(columns)]
    puzzle = whole.copy()
    for (y, x), (from_y, from_x) in zip(tiles, rng.permutation(tiles), strict=True):
        puzzle[y : y + h, x : x + w] = whole[from_y : from_y + h, from_x : from_x + w][:: rng.choice((-1, 1))]
    return puzzle


def _random_crop(
    rng: np.random.Generator, picture: np.ndarray, height: int, width: int, least: float = 0.35
) -> np.ndarray:
    """A random part of a picture, at least ``least`` of its side, resized to float32 [height, width, 3]."""
    share = rng.uniform(least, 1)
    h, w = max(int(picture.shape[0] * share), 2), max(int(picture.shape[1] * share), 2)
    y, x = rng.integers(picture.shape[0] - h + 1), rng.integers(picture.shape[1] - w + 1)
    part = Image.fromarray(picture[y : y + h, x : x + w]).resize((width, height), Image.Resampling.BILINEAR)
    turn = rng.integers(4)
    if turn & 1:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if turn & 2:
        part = part.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return np.array(part, np.float32) * np.float32(rng.uniform(0.6, 1.2))


def _distract(scene: _Scene) -> None:
    """Paste unlabelled rectangles of other backgrounds: a hard border alone does not mean an object."""
    rng = scene.rng
    for _ in range(rng.integers(1, 4)):
        h, w = rng.integers(20, scene.height // 2, 2)
        y, x = rng.integers(scene.height - h), rng.integers(scene.width - w)
        scene.canvas[y : y + h, x : x + w] = _plain_background(rng, int(h), int(w))
