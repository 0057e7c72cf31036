"""Frame layout against a second implementation."""

import pytest
from hyperframe.frame import Frame as PeerFrame
from hyperframe.frame import SettingsFrame

from gateway.http2 import frames


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_535, 65_536, 0xFFFFFF])
def test_a_frame_says_its_length_type_flags_and_stream(size: int) -> None:
    """RFC 9113 section 4.1: 24 bits of length, 8 of type, 8 of flags, 31 of stream id."""
    head, length = PeerFrame.parse_frame_header(
        memoryview(frames.frame(frames.Type.DATA, frames.END_STREAM, frames.MAX_STREAM_ID, bytes(size))[:9])
    )
    assert (head.type, head.stream_id, length) == (0, 2**31 - 1, size)
    assert set(head.flags) == {"END_STREAM"}


def test_settings_are_pairs_of_16_and_32_bits() -> None:
    """RFC 9113 section 6.5.1."""
    data = frames.settings({frames.Setting.HEADER_TABLE_SIZE: 0, frames.Setting.INITIAL_WINDOW_SIZE: 2**31 - 1})
    frame, length = PeerFrame.parse_frame_header(memoryview(data[:9]))
    assert isinstance(frame, SettingsFrame)
    assert length == len(data) - 9
    frame.parse_body(memoryview(data[9:]))
    assert frame.settings == {1: 0, 4: 2**31 - 1}


@pytest.mark.parametrize(("code", "name"), [(0, "NO_ERROR"), (0x7, "REFUSED_STREAM"), (0xD, "HTTP_1_1_REQUIRED")])
def test_registered_error_codes_have_names(code: int, name: str) -> None:
    assert frames.error_name(code) == name


@pytest.mark.parametrize("code", [0xE, 0xFFFFFFFF])
def test_any_other_error_code_is_a_number(code: int) -> None:
    """RFC 9113 section 7: unknown codes trigger no special behaviour, and no error of ours."""
    assert frames.error_name(code) == f"0x{code:x}"
