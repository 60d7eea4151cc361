from kilobit.evaluators.battery.config import Battery, load_battery
from tests.conftest import REPOSITORY


def test_the_example_spells_out_the_default() -> None:
    assert load_battery(REPOSITORY / "examples" / "batteries" / "default.yaml")[0] == Battery()
