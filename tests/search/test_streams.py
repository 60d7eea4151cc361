import hashlib

import numpy as np

from kilobit.search.streams import noise_signs, noise_source, noise_words, stream, stream_seed

GOLDEN_WORDS = [1924950172, 761593364, 1985760224, 3707157976]
GOLDEN_SIGNS = "+--+++---++-+---+-++"
GOLDEN_LARGE = [330048259]


def test_streams_are_told_apart_by_every_part_of_their_name() -> None:
    names = [(0, "a"), (0, "b"), (1, "a"), ("0", "a"), (0, "a", "")]
    assert len({stream_seed(*name) for name in names}) == len(names)
    assert stream(0, "a").random() == stream(0, "a").random()


def test_streams_do_not_change_between_versions() -> None:
    assert stream_seed(7, "space", "prompt") == 4392487997462636351
    assert stream(7, "space", "prompt").randrange(10**6) == 978325


def test_noise_is_the_published_hash_of_seed_and_counter() -> None:
    # The first bytes of SHAKE128 of the empty text, as FIPS 202's test vectors print them.
    assert hashlib.shake_128(b"").hexdigest(8) == "7f9c2ba4e88f827d"
    words = np.frombuffer(hashlib.shake_128(b"7,3").digest(12), "<u4")
    assert noise_words(7, 3, 3).tolist() == words.tolist()


def test_noise_is_what_it_was() -> None:
    assert noise_words(0, 0, 4).tolist() == GOLDEN_WORDS
    assert "".join("-+"[int(sign > 0)] for sign in noise_signs(0, 0, 20)) == GOLDEN_SIGNS
    assert noise_words((1 << 63) - 1, 1 << 31, 1).tolist() == GOLDEN_LARGE


def test_signs_are_the_bits_of_the_same_stream_and_a_shorter_draw_its_beginning() -> None:
    signs = noise_signs(5, 6, 4096)
    drawn = np.unpackbits(noise_words(5, 6, 128).astype("<u4").view(np.uint8))
    assert set(signs.tolist()) == {-1, 1}
    assert (signs > 0).tolist() == drawn.astype(bool).tolist()
    assert noise_signs(5, 6, 77).tolist() == signs[:77].tolist()
    assert abs(int(signs.sum())) < 4 * 64


def test_a_program_draws_the_same_noise() -> None:
    drawn = eval(noise_source("7", "1 + 2", "12"), {"hashlib": hashlib})
    assert np.frombuffer(drawn, "<u4").tolist() == noise_words(7, 3, 3).tolist()


def test_seeds_and_counters_do_not_run_into_one_another() -> None:
    drawn = {tuple(noise_words(*at, 2)) for at in [(1, 11), (11, 1), (111, 1), (1, 111), (1, 1)]}
    assert len(drawn) == 5
