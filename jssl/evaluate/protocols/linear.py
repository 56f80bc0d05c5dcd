"""`--protocol=linear`: the papers' linear evaluation, with augmented images and SGD by a preset."""

from ml_collections import ConfigDict

from jssl import data
from jssl.evaluate.context import Context, check_preset
from jssl.evaluate.probes.linear_sgd import evaluate_linear
from jssl.evaluate.probes.presets import PRESETS, crop_ranges, own_preset, rate_warning
from jssl.evaluate.protocol import DATA, KNN, Protocol, Row, need_labels
from jssl.evaluate.table import linear_row
from jssl.run.writers import say


def run(context: Context) -> list[Row]:
    """Runs the papers' linear protocol: frozen network, augmented images, SGD by a preset."""
    settings = context.settings
    check_preset(settings.preset)
    own = own_preset(context.config)
    preset = settings.preset or own or "simclr"
    crop = crop_ranges(PRESETS[preset])
    train, test = context.sources
    section = ConfigDict(context.data.to_dict())
    section.host_crop = data.resolve_crop(section, train)
    host_crop = section.host_crop != "device"
    epochs = settings.epochs or PRESETS[preset].epochs
    if warning := rate_warning(PRESETS[preset], epochs=epochs, examples=len(train)):
        say(f"WARNING linear, preset {preset}: {warning}")
    result = evaluate_linear(
        context.probed,
        context.state,
        train,
        test,
        size=context.size,
        channels=context.channels,
        preset=preset,
        epochs=settings.epochs,
        feature=settings.feature,
        seed=settings.seed,
        host_crop=host_crop,
        train_transform=data.train_transform(
            section, train, size=context.size, views=1, **(crop if host_crop else {})
        ),
        test_transform=context.transform(test),
        workers=context.data.workers,
        progress=lambda entry: say(
            f"linear epoch {entry['epoch']:g} loss {entry['loss']:.4g} "
            f"test top-1 {100 * entry['test_top1']:.1f} %"
        ),
    )
    origin = f"the preset of {context.config.method} is {own}"
    if preset == own:
        origin = f"that of {context.config.method}'s authors"
    elif not own:
        origin = f"{context.config.method} has none of its own"
    protocol = f"{result.record['protocol']}; {origin}"
    return [linear_row({**result.record, "protocol": protocol})]


PROTOCOL = Protocol(
    "linear",
    run,
    need_labels,
    (*KNN, *DATA, "feature", "preset", "epochs", "seed"),
    baseline=True,
)
