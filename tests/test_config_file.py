"""Config files that users write, and every key set on the command line."""

import shutil
import sys

import pytest
from helpers import ROOT, get_config

from jssl import config, methods
from jssl.errors import UserError
from jssl.run import config_file

GOOD = """
from jssl import config
def get_config(arg=""):
    c = config.base("simclr", preset="cifar")
    c.epochs = 3
    return c
"""


def write(folder, text, name="my config.py"):
    path = folder / name
    path.write_text(text)
    return str(path)


def test_a_file_with_a_blank_in_its_name_and_switches_with_a_colon(tmp_path):
    assert config_file.load(write(tmp_path, GOOD)).epochs == 3
    path = write(tmp_path, "def get_config(arg): raise ValueError(arg)")
    with pytest.raises(UserError, match="raises ValueError: init=a:b,x"):
        config_file.load(path + ":init=a:b,x")


def test_a_config_imports_a_file_in_its_folder(tmp_path):
    before = list(sys.path)
    for folder, lr in (("a", 0.25), ("b", 0.75)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, f"LR = {lr}", "beside.py")
        text = GOOD.replace("c.epochs = 3", "c.optim.lr = LR").replace(
            "from jssl", "from beside import LR\nfrom jssl", 1
        )
        assert config_file.load(write(tmp_path / folder, text)).optim.lr == lr
    assert sys.path == before and "beside" not in sys.modules


def test_a_copy_of_a_config_works_in_another_folder(tmp_path):
    """It imports what jssl's configs share; a folder of that name beside the copy comes first."""
    copy = shutil.copy(ROOT / "configs" / "simclr_photos.py", tmp_path)
    assert config_file.load(f"{copy}:epochs=7").optim.name == "adamw"
    own = tmp_path / "bases"
    own.mkdir()
    write(own, "", "__init__.py")
    write(own, "def small_resnet(c, s): c.epochs = 0.5", "photos.py")
    assert config_file.load(f"{copy}:epochs=7").epochs == 0.5
    own.rename(tmp_path / "others")
    assert config_file.load(f"{copy}:epochs=7").epochs == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def get_config(arg): return {}", "returned dict. Expected the config"),
        ("def get_config(arg): pass", "returned NoneType. Expected the config"),
        ("x = 1", "has no function get_config"),
        ("def get_config(:", "line 1 is not Python"),
        ("import nothing_here", "line 1 (import nothing_here) raises ModuleNotFoundError"),
        (GOOD.replace("= 3", "= 'x'"), "line 5 (c.epochs = 'x') raises TypeError"),
        (GOOD.replace("epochs", "epoch"), 'raises AttributeError: Did you mean "epochs" instead'),
        (GOOD.replace("cifar", "cifra"), "has no preset 'cifra': did you mean 'cifar'?"),
        ("raise SystemExit(0)", "raises SystemExit"),
    ],
)
def test_an_error_in_a_config_file_is_reported_with_its_cause(text, said, tmp_path):
    with pytest.raises(UserError) as error:
        config_file.load(write(tmp_path, text))
    assert said in str(error.value)


def test_switches_that_a_file_does_not_take(tmp_path):
    path = write(tmp_path, GOOD.replace('arg=""', ""))
    assert config_file.load(path).epochs == 3
    with pytest.raises(UserError, match="takes no switches; found ':smoke'"):
        config_file.load(path + ":smoke")


@pytest.mark.parametrize("method", methods.names())
def test_every_key_takes_its_own_value_on_the_command_line(method):
    c = get_config(f"{method}_photos")
    for key, value in config.flatten(c).items():
        if key.partition(".")[0] in config_file.FIXED:
            continue
        config_file.override(c, key, value if isinstance(value, str) else repr(value))
        assert config.flatten(c)[key] == value, key


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("optim.eps", "None", None),
        ("optim.eps", "1e-8", 1e-8),
        ("optim.lr", "1", 1.0),
        ("epochs", "2", 2.0),
        ("augment.options.blur_p", "(1.0,0.1)", (1.0, 0.1)),
        ("augment.options.blur_p", "0.5", 0.5),
        ("augment.options.blur_radius", "None", None),
        ("augment.options.blur_radius", "3", 3),
        ("augment.options.scale", "0.2,1", (0.2, 1)),
        ("model.stage_sizes", "[1,2]", (1, 2)),
        ("model.stage_sizes", "3", (3,)),
        ("optim.boundaries", "()", ()),
        ("log.tensorboard", "false", False),
        ("data.data_dir", "a=b c", "a=b c"),
        ("data.data_dir", "", ""),
        ("data.data_dir", "None", "None"),
    ],
)
def test_values_that_the_documentation_allows(key, text, value):
    c = get_config("simclr_photos")
    config_file.override(c, key, text)
    found = config.flatten(c)[key]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text", ["(1,", "a b", "{}{}", "(" * 300])
def test_a_value_that_is_not_a_tuple(text):
    c = get_config("simclr_photos")
    with pytest.raises(UserError, match="--config.model.stage_sizes expects values such as"):
        config_file.override(c, "model.stage_sizes", text)


def test_an_unknown_switch_of_a_shipped_config():
    with pytest.raises(UserError, match="Switch ':data' has no 'imagenett': did you mean"):
        get_config("simclr_imagenette", "data=imagenett")


def test_comma_separated_words_are_a_tuple():
    c = get_config("cmc_photos")
    config_file.override(c, "cmc.views", "l,ab")
    assert c.cmc.views == ("l", "ab")
