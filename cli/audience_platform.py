"""Commands of the group `vesica audience` about segments of the platform: the older sharing, and where people are."""

from typing import TYPE_CHECKING

import click

from . import inputs, options, output

if TYPE_CHECKING:
    from .main import Context


@click.group()
def sharing() -> None:
    """The older sharing: every segment appears as a signal, a trait and a segment on an Audience Manager side."""


@sharing.command()
@click.option("--to", "url", metavar="URL", help="Another node's, such as https://node.example.com/audiences.")
@click.option("--secret", metavar="FILE", help='A file with the token of a user there, or "-" for standard input.')
@click.option("--authorities", metavar="FILE", help="A PEM file of authorities for its certificate.")
@options.USES
@click.pass_obj
def on(ctx: "Context", url: str | None, secret: str | None, authorities: str | None, uses: tuple[str, ...]) -> None:
    """Share every segment from now on, also those that are made later, with this project's own side or another node's.

    Segments that a label or a partner keeps from one of the uses stay away. It is a destination by the name
    audience-sharing; it and a connection to the Experience Cloud cannot both be.

    \b
    Example: vesica audience sharing on --use analytics
    """
    settings = {name: each for name, each in (("url", url), ("authorities", authorities)) if each is not None}
    token = None if secret is None else inputs.secret(secret)
    with output.progress(ctx) as progress:
        done = ctx.project().destinations.older_sharing.on(settings, secret=token, uses=uses, progress=progress)
        _said(ctx, done, "the older sharing is on")


@sharing.command()
@click.option("--hand-over", metavar="NAME", help="Make this connection to the Experience Cloud, which takes over.")
@click.option(
    "--segment", "segments", multiple=True, metavar="SEGMENT", help="What it keeps; all segments unless given."
)
@click.pass_obj
def off(ctx: "Context", hand_over: str | None, segments: tuple[str, ...]) -> None:
    """End the older sharing: its members are removed on the Audience Manager side.

    With --hand-over a connection takes over in the same moment: members of its segments are neither missing in between nor
    sent again, those of other segments are removed. Traits and segments keep their numbers and go to the data source
    "Experience Platform Segments".

    \b
    Example: vesica audience sharing off --hand-over cloud --segment summer-buyers
    """
    if segments and hand_over is None:
        raise click.UsageError("--segment needs --hand-over: without it no segment is shared any more.")
    door = ctx.project().destinations.older_sharing
    with output.progress(ctx) as progress:
        if hand_over is None:
            _said(ctx, door.off(progress), "the older sharing ends")
            return
        done = door.hand_over(hand_over, segments, progress)
        _said(ctx, done, f"{hand_over} has taken over from the older sharing")
    output.say(
        "Traits and segments are now of the data source Experience Platform Segments: roles that are limited to Adobe "
        "Experience Platform Audience Sharing do not see them any more."
    )


@click.command()
@click.argument("segment", help="The segment; 'vesica segment list' shows them.")
@click.pass_obj
def reconcile(ctx: "Context", segment: str) -> None:
    """Show why an Audience Manager side counts fewer people in a segment than there are here.

    platform = counted + namespace + consent + merge + timing: namespace are those whose primary identity it does not
    know, consent those who may not be sent (labels and uses too), merge profiles that it takes for one visitor, timing
    those on their way. Who is still counted there and no member here stands under leaving.

    \b
    Example: vesica audience reconcile summer-buyers
    """
    found = ctx.project().reports.audience(segment)
    names = ("destination", "platform", "counted", "namespace", "consent", "merge", "timing", "leaving")
    cells = [[row[name] for name in names] for row in found["sides"]]
    output.emit(ctx, found, lambda: output.table(names, cells, empty="no Audience Manager side gets it"))


def _said(ctx: "Context", done: dict[str, object], what: str) -> None:
    def show() -> None:
        output.echo(f"{what}; messages that arrived: {done['sent']:,}, changes that wait: {done['waiting']:,}")

    output.emit(ctx, done, show)
