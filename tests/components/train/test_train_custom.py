"""The user's own module, as it is loaded: what is wrong with it is said before anything runs."""

import sys

import pytest

from components.custom import load_module
from components.errors import RetrainError

GOOD = "def build_model(blueprint, params): ...\n"


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a module into the current folder, and gives its path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def written(text, name="models_of_mine"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield written
    for name in [n for n in sys.modules if n.startswith("models_of_mine")]:
        del sys.modules[name]


def test_a_module_of_the_current_folder(written):
    module = load_module(written(GOOD))
    assert callable(module.build_model) and not hasattr(module, "preprocessing_fn")
    assert load_module(None) is None


def test_arguments_may_have_defaults_and_other_names(written):
    load_module(written("def build_model(plan, settings, depth=3): ...\ndef preprocessing_fn(*columns): ..."))


WRONG = {
    "no function": ("x = 1", r"has no function build_model\(blueprint, params\); define it"),
    "no callable": ("build_model = 3", r"has no function build_model"),
    "one argument": (
        "def build_model(blueprint): ...",
        r"build_model\(blueprint\) cannot be called as build_model\(",
    ),
    "one more": ("def build_model(b, p, more): ...", r"build_model\(b, p, more\) cannot be called .*'more'"),
    "preprocessing": (
        GOOD + "def preprocessing_fn(): ...",
        r"preprocessing_fn\(\) cannot be called as preprocessing_fn\(inputs\)",
    ),
    "preprocessing is none": (GOOD + "preprocessing_fn = 'x'", r"has no function preprocessing_fn\(inputs\)"),
    "syntax": ("def build_model(:", "models_of_mine does not import: SyntaxError"),
    "raises": ("1 / 0", "models_of_mine does not import: ZeroDivisionError: division by zero"),
    "an import": (
        "import no_such_library",
        "models_of_mine imports 'no_such_library', which is not installed",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_module_is_told(written, case):
    text, message = WRONG[case]
    path = written(text)
    with pytest.raises(RetrainError, match=rf"^model\.module: .*{message}"):
        load_module(path)


@pytest.mark.parametrize("path", ["no_such_module", "no_such_package.module", "models_of_mine.deeper"])
def test_a_module_that_is_not_there(written, path):
    written(GOOD)
    with pytest.raises(RetrainError, match=f"there is no module '{path}' in .* run retrain in the folder"):
        load_module(path)
