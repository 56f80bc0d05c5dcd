"""`--protocol=classifier`: the run's own classifier on the test split."""

from jssl.errors import UserError
from jssl.evaluate.context import Context
from jssl.evaluate.embed import embed_source
from jssl.evaluate.protocol import DATA, Protocol, Row, need_classifier
from jssl.evaluate.table import classifier_row


def run(context: Context) -> list[Row]:
    """Computes top-1 of the logits on evaluation crops."""
    if "logits" not in context.outputs:
        raise UserError(f"Protocol 'classifier' needs {need_classifier(context)}.")
    test = context.sources[1]
    logits, labels, _ = embed_source(
        context.compile("logits"),
        context.state,
        test,
        batch_size=context.batch_size,
        feature="logits",
        transform=context.transform(test),
    )
    return [classifier_row(logits, labels, name=test.name)]


PROTOCOL = Protocol("classifier", run, need_classifier, DATA)
