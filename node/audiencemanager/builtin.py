"""What every project has from the beginning: global data sources, and the names that the platform's segments get here."""

from collections.abc import Mapping

from .records import Source, SourceKind

OWN_SOURCES = 2_000_000  # where the numbers of a project's own data sources begin: the global ones are below
NUMBERS = 1_000  # where those of traits, segments and folders begin

DEVICES = 0  # the data source of Audience Manager's own device ids
HASHED_EMAILS = 1  # that of e-mail addresses that the platform sends hashed


def _source(number: int, name: str, namespace: str, kind: SourceKind = SourceKind.GLOBAL) -> tuple[int, Source]:
    made = Source(
        id=None,
        number=number,
        name=name,
        kind=kind,
        namespace=namespace,
        integration_code=None,
        controls=(),
        created=0,
    )
    return number, made


SOURCES: Mapping[int, Source] = dict(  # by number
    (
        _source(DEVICES, "Audience Manager device ids", "ecid/digits-v1"),
        _source(HASHED_EMAILS, "Experience Platform hashed e-mails", "email_sha256/lc-v1", SourceKind.PLATFORM),
        _source(20914, "Google Advertising ID", "gaid/uuid-v1"),
        _source(20915, "Apple ID for Advertisers", "idfa/uuid-v1"),
        _source(121963, "Roku ID for Advertising", "roku_rida/opaque-v1"),
        _source(389146, "Microsoft Advertising ID", "microsoft_maid/opaque-v1"),
        _source(488258, "Amazon Fire TV Advertising ID", "fire_tv_afai/opaque-v1"),
        _source(963906, "Samsung Tizen ID for Advertising", "samsung_tifa/opaque-v1"),
        _source(1171485, "LG webOS TV ID", "lg_udid/opaque-v1"),
        _source(1171489, "Vizio ID for Advertising", "vizio_ifa/opaque-v1"),
    )
)

SHARING_SOURCE = "Adobe Experience Platform Audience Sharing"  # of segments that come by the older sharing
SEGMENTS_SOURCE = "Experience Platform Segments"  # of those that come by an Experience Cloud connection
TRAITS_FOLDER = "Experience Platform Traits"
SEGMENTS_FOLDER = "Experience Platform Segments"
MERGE_RULE = "External Merge Policy"
