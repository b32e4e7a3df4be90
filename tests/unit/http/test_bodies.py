from sidecar.http.bodies import CloseReader, LengthReader


def test_a_length_is_counted_down() -> None:
    reader = LengthReader(5)
    assert reader.feed(b"..he", 2) == (b"he", 4)
    assert not reader.done
    assert reader.feed(b"llo, world", 0) == (b"llo", 3)
    assert reader.done
    assert (reader.trailers, reader.defect) == ([], None)


def test_a_body_that_is_all_there_is_is_not_copied() -> None:
    data = b"hello"
    assert LengthReader(5).feed(data, 0)[0] is data
    assert LengthReader(6).feed(data, 0)[0] is data
    assert CloseReader().feed(data, 0)[0] is data


def test_a_body_until_the_end_takes_everything() -> None:
    reader = CloseReader()
    assert reader.feed(b"..abc", 2) == (b"abc", 5)
    assert (reader.done, reader.trailers, reader.defect) == (False, [], None)
