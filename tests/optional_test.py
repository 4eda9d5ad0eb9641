import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import l2l_tf

ROOT = Path(__file__).resolve().parents[1]
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""


PACKAGES = ["matplotlib", "PIL", "sklearn", "tensorflow_datasets", "filelock"]
# What needs a package, by name, and what it says without one.
NEEDING = {
    "matplotlib": (
        "import l2l_tf.reporting.figures",
        "matplotlib must be installed for figures.",
    ),
    "PIL": ("import l2l_tf.data.photos", "pillow must be installed for pictures."),
    "sklearn": (
        "from l2l_tf.data import datasets; datasets.load('digits')",
        "scikit-learn must be installed for the digits that come with it.",
    ),
    "filelock": (
        "import experiments.harness.places",
        "filelock must be installed for experiments.",
    ),
}
# First it does what needs none of them.
PROGRAM = """
import json
import l2l_tf

l2l_tf.load, l2l_tf.MetaTrainer, l2l_tf.problems, l2l_tf.reporting
l2l_tf.load_rule("quadratic_lstm")
said = {}
for package, statement in json.loads(sys.argv[1]).items():
    try:
        exec(statement)
    except ModuleNotFoundError as error:
        said[package] = str(error)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    """What is said without the packages, by name."""
    program = WITHOUT.format(packages=PACKAGES) + PROGRAM
    statements = json.dumps({package: one for package, (one, _) in NEEDING.items()})
    process = subprocess.run(
        [sys.executable, "-c", program, statements],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(process.stdout)


@pytest.mark.slow
def test_using_and_training_rules_needs_none_of_them(said):
    assert set(said) == set(NEEDING)


@pytest.mark.slow
@pytest.mark.parametrize("package", NEEDING)
def test_what_needs_a_package_that_is_missing_says_how_to_install_it(said, package):
    assert said[package] == (
        f"{NEEDING[package][1]} Received: no module of it. "
        "Install it with `pip install 'l2l-tf[experiments]'`."
    )


def test_every_public_name_is_at_home_where_the_package_says():
    assert set(l2l_tf.__all__) == set(l2l_tf._HOMES)
    for name, home in l2l_tf._HOMES.items():
        module = importlib.import_module(home)
        assert name in module.__all__
        assert getattr(module, name) is getattr(l2l_tf, name)
