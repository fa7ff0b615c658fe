"""Every encoding against OpenCV, with padding and both byte orders; files of image_transport."""

import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from qwen_vla_ros.image_decoding import InputError, check_image, decode_image
from qwen_vla_ros.image_encodings import KNOWN

WIDTH, HEIGHT = 16, 10
RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
WORDS = RNG.integers(0, 65536, (HEIGHT, WIDTH, 4), dtype=np.uint16)
WORDS[0, 0, 0], WORDS[0, 1, 0] = 0, 65535


def eight(words):
    """Scale as cv_bridge does: cv2's own conversion by 255/65535."""
    return np.rint(words.astype(np.float64) * (255.0 / 65535.0)).astype(np.uint8)


# What the message holds, and what cv_bridge makes of it by these OpenCV codes.
RAW = {
    'rgb8': (BYTES[..., :3], BYTES[..., :3]),
    'bgr8': (BYTES[..., :3], cv2.cvtColor(BYTES[..., :3].copy(), cv2.COLOR_BGR2RGB)),
    'rgba8': (BYTES, cv2.cvtColor(BYTES, cv2.COLOR_RGBA2RGB)),
    'bgra8': (BYTES, cv2.cvtColor(BYTES, cv2.COLOR_BGRA2RGB)),
    'rgb16': (WORDS[..., :3], eight(WORDS[..., :3])),
    'bgr16': (WORDS[..., :3], eight(WORDS[..., 2::-1])),
    'rgba16': (WORDS, eight(WORDS[..., :3])),
    'bgra16': (WORDS, eight(WORDS[..., 2::-1])),
    'mono8': (BYTES[..., 0], cv2.cvtColor(BYTES[..., 0].copy(), cv2.COLOR_GRAY2RGB)),
    'mono16': (WORDS[..., 0], cv2.cvtColor(eight(WORDS[..., 0]), cv2.COLOR_GRAY2RGB)),
    'yuv422': (BYTES[..., :2], cv2.cvtColor(BYTES[..., :2].copy(), cv2.COLOR_YUV2RGB_UYVY)),
    'uyvy': (BYTES[..., :2], cv2.cvtColor(BYTES[..., :2].copy(), cv2.COLOR_YUV2RGB_UYVY)),
    'yuv422_yuy2': (BYTES[..., :2], cv2.cvtColor(BYTES[..., :2].copy(), cv2.COLOR_YUV2RGB_YUYV)),
    'yuyv': (BYTES[..., :2], cv2.cvtColor(BYTES[..., :2].copy(), cv2.COLOR_YUV2RGB_YUYV)),
}
for name, code in (
    ('rggb', cv2.COLOR_BayerBG2RGB),
    ('bggr', cv2.COLOR_BayerRG2RGB),
    ('gbrg', cv2.COLOR_BayerGR2RGB),
    ('grbg', cv2.COLOR_BayerGB2RGB),
):
    one, two = BYTES[..., 0].copy(), WORDS[..., 0].copy()
    RAW[f'bayer_{name}8'] = (one, cv2.cvtColor(one, code))
    RAW[f'bayer_{name}16'] = (two, eight(cv2.cvtColor(two, code)))


def raw(rows, encoding, big=False, padding=0):
    """Return the Image of rows, in either byte order, with padded lines."""
    rows = rows.astype(rows.dtype.newbyteorder('>' if big else '<'))
    lines = np.ascontiguousarray(rows).view(np.uint8).reshape(HEIGHT, -1)
    lines = np.pad(lines, ((0, 0), (0, padding)), constant_values=0xAB)
    return SimpleNamespace(
        encoding=encoding,
        width=WIDTH,
        height=HEIGHT,
        step=lines.shape[1],
        is_bigendian=int(big),
        data=lines.tobytes(),
    )


def decoded(message, encoding, depth_m=None):
    check_image(message, 'camera', encoding, WIDTH, HEIGHT)
    found = decode_image(message, 'camera', depth_m)
    assert found.dtype == np.uint8
    assert found.shape == (HEIGHT, WIDTH, 3)
    return found


def test_every_known_encoding_is_tested():
    assert set(RAW) | {'16UC1', '32FC1'} == set(KNOWN)


@pytest.mark.parametrize('big', [False, True], ids=['little', 'big'])
@pytest.mark.parametrize('padding', [0, 6])
@pytest.mark.parametrize('encoding', RAW)
def test_a_raw_encoding_becomes_what_opencv_makes_of_it(encoding, padding, big):
    rows, wanted = RAW[encoding]
    message = raw(rows, encoding, big, padding)
    np.testing.assert_array_equal(decoded(message, encoding), wanted)


def test_a_red_pixel_of_a_bayer_mosaic_is_red():
    """The pattern's name in ROS is of the first two rows: rggb begins with red."""
    mosaic = np.zeros((HEIGHT, WIDTH), np.uint8)
    mosaic[::2, ::2] = 200
    found = decoded(raw(mosaic, 'bayer_rggb8'), 'rgb8')
    np.testing.assert_array_equal(found[4, 4], [200, 0, 0])


DEPTHS_M = np.linspace(0.3, 2.2, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH)


def grey_of_depth(metres, near=0.5, far=2.0):
    return np.rint(1 + 254 * np.clip((metres - near) / (far - near), 0, 1))


@pytest.mark.parametrize('encoding', ['16UC1', '32FC1'])
@pytest.mark.parametrize('big', [False, True], ids=['little', 'big'])
def test_depth_becomes_the_contracts_grey_and_unmeasured_stays_apart(encoding, big):
    if encoding == '16UC1':
        rows = np.rint(DEPTHS_M * 1000).astype(np.uint16)
        metres = rows.astype(np.float32) * np.float32(0.001)
    else:
        rows = metres = DEPTHS_M.astype(np.float32)
    rows = rows.copy()
    rows[0, :3] = [0, 0, 0] if encoding == '16UC1' else [np.nan, np.inf, 0.0]
    found = decoded(raw(rows, encoding, big, 4), encoding, (0.5, 2.0))
    np.testing.assert_array_equal(found[0, :3], np.zeros((3, 3)))
    wanted = grey_of_depth(metres)
    np.testing.assert_array_equal(found[0, 3:, 1], wanted[0, 3:])
    np.testing.assert_array_equal(found[1:, :, 2], wanted[1:])
    assert found[1:].min() >= 1


@pytest.mark.parametrize(
    ('encoding', 'contract'),
    [('mono8', 'rgb8'), ('rgb8', 'mono16'), ('16UC1', 'mono8'), ('bayer_rggb8', '32FC1')],
)
def test_a_picture_of_another_family_is_refused(encoding, contract):
    rows = BYTES[..., :3] if encoding == 'rgb8' else WORDS[..., 0]
    with pytest.raises(InputError, match=f"'{encoding}', the contract says '{contract}'"):
        check_image(raw(rows, encoding), 'camera', contract, WIDTH, HEIGHT)


@pytest.mark.parametrize('encoding', ['rgb16', 'bayer_gbrg16', 'yuv422', '32FC1'])
def test_a_cut_buffer_is_refused(encoding):
    rows = WORDS[..., :3] if encoding == 'rgb16' else WORDS[..., 0]
    rows = DEPTHS_M.astype(np.float32) if encoding == '32FC1' else rows
    message = raw(rows, encoding)
    message.data = message.data[:-1]
    with pytest.raises(InputError, match=f'are too few for {WIDTH}x{HEIGHT} {encoding}'):
        check_image(message, 'camera', encoding, WIDTH, HEIGHT)


# --- compressed ------------------------------------------------------------------------------


def packed(rows, kind, told, header=b''):
    return SimpleNamespace(format=told, data=header + cv2.imencode(f'.{kind}', rows)[1].tobytes())


def test_a_png_of_image_transport_is_exact():
    rgb = BYTES[..., :3].copy()
    message = packed(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), 'png', 'rgb8; png compressed bgr8')
    np.testing.assert_array_equal(decoded(message, 'rgb8'), rgb)


def test_a_png_whose_bytes_were_left_in_rgb_order_is_not_turned():
    rgb = BYTES[..., :3].copy()
    message = packed(rgb, 'png', 'rgb8; png compressed rgb8')
    np.testing.assert_array_equal(decoded(message, 'rgb8'), rgb)


def test_a_jpeg_is_what_opencv_decodes():
    bgr = cv2.resize(BYTES[:2, :2, :3], (WIDTH, HEIGHT))
    message = packed(bgr, 'jpg', 'bgr8; jpeg compressed bgr8')
    file = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded(message, 'rgb8'), cv2.cvtColor(file, cv2.COLOR_BGR2RGB))


@pytest.mark.parametrize('encoding', ['mono8', 'mono16', 'bayer_rggb8', 'rgb16'])
def test_a_png_keeps_grey_mosaic_and_16_bits(encoding):
    rows, wanted = RAW[encoding]
    file = rows[..., ::-1] if rows.ndim == 3 else rows
    message = packed(np.ascontiguousarray(file), 'png', f'{encoding}; png compressed ')
    np.testing.assert_array_equal(decoded(message, encoding), wanted)


@pytest.mark.parametrize('kind', ['jpg', 'png'])
def test_a_grey_file_is_refused_where_colour_is_wanted_and_the_reverse(kind):
    grey, colour = packed(BYTES[..., 0], kind, kind), packed(BYTES[..., :3], kind, kind)
    with pytest.raises(InputError, match=r"a grey \w+, the contract says 'rgb8'"):
        check_image(grey, 'camera', 'rgb8', WIDTH, HEIGHT)
    with pytest.raises(InputError, match=r"a colour \w+, the contract says 'mono8'"):
        check_image(colour, 'camera', 'mono8', WIDTH, HEIGHT)


def test_compressed_depth_of_16_bits_has_a_header_before_its_png():
    millimetres = np.rint(DEPTHS_M * 1000).astype(np.uint16)
    told = '16UC1; compressedDepth png'
    message = packed(millimetres, 'png', told, struct.pack('<iff', 0, 0.0, 0.0))
    metres = millimetres.astype(np.float32) * np.float32(0.001)
    found = decoded(message, '16UC1', (0.5, 2.0))
    np.testing.assert_array_equal(found[..., 0], grey_of_depth(metres))


def test_compressed_depth_of_floats_is_stored_as_inverse_depth():
    scale, offset = 100.0 * 101.0, 1.0 - 100.0 * 101.0 / 10.0
    inverse = np.rint(scale / DEPTHS_M + offset).astype(np.uint16)
    inverse[0, 0] = 0
    header = struct.pack('<iff', 0, scale, offset)
    message = packed(inverse, 'png', '32FC1; compressedDepth png', header)
    found = decoded(message, '32FC1', (0.5, 2.0))[..., 0].astype(int)
    assert found[0, 0] == 0
    assert np.abs(found - grey_of_depth(DEPTHS_M))[1:].max() <= 1


@pytest.mark.parametrize(
    ('told', 'rows', 'contract', 'words'),
    [
        ('16UC1; compressedDepth rvl', None, '16UC1', 'neither jpeg nor png'),
        ('16UC1; jpeg compressed mono8', BYTES[..., 0], '16UC1', 'depth of 8 bits'),
        ('32FC1; png compressed ', WORDS[..., 0], '32FC1', 'without the header'),
    ],
)
def test_depth_that_cannot_be_exact_is_refused(told, rows, contract, words):
    kind = 'jpg' if 'jpeg' in told else 'png'
    message = SimpleNamespace(format=told, data=bytes(99))
    if rows is not None:
        message = packed(rows, kind, told)
    with pytest.raises(InputError, match=words):
        decoded(message, contract, (0.5, 2.0))
