"""The configs that come with jssl, by name: `--config=simclr_photos` works from any folder."""

import ast
from pathlib import Path

from jssl.errors import UserError, nearest

_HERE = Path(__file__).parent
# Inside the package in a wheel, next to it in a checkout.
CONFIGS = _HERE / "configs" if (_HERE / "configs").is_dir() else _HERE.parent / "configs"


def names() -> list[str]:
    """Returns the names of the configs, sorted.

    Example:
        >>> names()[:2]
        ['beit_cifar', 'beit_finetune_cifar']
    """
    return sorted(path.stem for path in CONFIGS.glob("*.py"))


def find(name: str) -> Path:
    """Returns the file of a config.

    Args:
        name: of the config, without switches.

    Raises:
        UserError: no such config, naming the nearest.

    Example:
        >>> find('simclr_photos').name
        'simclr_photos.py'
    """
    if name not in names():
        raise UserError(
            f"Unknown config '{name}': {nearest(name, names())}. `jssl configs` lists all; a "
            "config file of your own ends in .py: type --config=FILE.py.".replace("?.", "?")
        )
    return CONFIGS / f"{name}.py"


def purpose(name: str) -> str:
    """Returns the purpose of a config: the first line of its docstring.

    Args:
        name: of the config.

    Raises:
        UserError: no such config, naming the nearest.

    Example:
        >>> purpose('vicreg_imagenet')
        "VICReg on ImageNet-1k with a ResNet-50: the paper's run."
    """
    text = ast.get_docstring(ast.parse(find(name).read_text(encoding="utf-8")))
    return (text or "").partition("\n")[0]
