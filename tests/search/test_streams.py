from kilobit.search.streams import stream, stream_seed


def test_streams_are_told_apart_by_every_part_of_their_name() -> None:
    names = [(0, "a"), (0, "b"), (1, "a"), ("0", "a"), (0, "a", "")]
    assert len({stream_seed(*name) for name in names}) == len(names)
    assert stream(0, "a").random() == stream(0, "a").random()


def test_streams_do_not_change_between_versions() -> None:
    assert stream_seed(7, "space", "prompt") == 4392487997462636351
    assert stream(7, "space", "prompt").randrange(10**6) == 978325
