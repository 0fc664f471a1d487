"""The identity rules: their examples, what they drop, and that columns and single values agree."""

import base64
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256

import numpy as np
import phonenumbers
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from quick import examples

from node.errors import InvalidInput, InvalidName
from node.inputs import phones
from node.inputs.normalise import Form, Normalised, Reason, check_region, normalise, rule, rule_for_import
from node.inputs.phones import parse_phone

EMPTY = sha256(b"").hexdigest()


def one(name: str, text: str, **options: str | None) -> bytes | Reason:
    """Return the identity of a single value, or why there is none."""
    found = normalise(rule(name), [text], **options)  # type: ignore[arg-type]
    return found.values[0] if found.keep[0] else Reason(found.reasons[0])


@pytest.mark.parametrize(
    ("name", "text", "region", "digest"),
    [
        ("email_sha256", " User@Example.COM\t", None, "b4c9a289323b21a01c3e940f150eb9b8c542587f1abfd8f0e1cc1ffc5e475514"),
        ("phone_sha256", "+1 (234) 567-8901", None, "10e6f0b47054a83359477dcb35231db6de5c69fb1816e1a6b98e192de9e5b9ee"),
        ("phone_sha256/digits-v1", "(650) 555-1212", "US", "e323ec626319ca94ee8bff2e4c87cf613be6ea19919ed1364124e16807ab3176"),
    ],
)  # fmt: skip
def test_published_examples(name: str, text: str, region: str | None, digest: str) -> None:
    assert one(name, text, region=region) == bytes.fromhex(digest)


@pytest.mark.feature("ID1")
def test_email_forms_meet_and_an_uppercase_hash_matches_them() -> None:
    digest = sha256(b"ann@x.com").digest()
    column = ["\u00a0Ann@X.com ", "ann@x.com"]
    found = normalise(rule("email_sha256"), column)
    assert {found.values[0], found.values[1]} == {digest}
    assert found.values[0].hex() == sha256(b"ann@x.com").hexdigest()
    for text in (digest.hex(), digest.hex().upper(), f" {digest.hex()} "):
        assert one("email_sha256", text) == digest


@pytest.mark.feature("ID8")
def test_hash_forms() -> None:
    digest = next(d for d in (sha256(bytes([n])).digest() for n in range(99)) if {*b"+/"} & {*base64.b64encode(d)})
    column = [
        digest.hex(),
        "0X" + digest.hex().upper(),
        base64.b64encode(digest).decode(),
        base64.b64encode(digest).decode().rstrip("="),
        base64.urlsafe_b64encode(digest).decode(),
    ]
    found = normalise(rule("phone_sha256"), column, form="hashed")
    assert [found.values[index] for index in range(5)] == [digest] * 5
    assert found.forms == {"hex": 1, "0x hex": 1, "Base64": 2, "URL-safe Base64": 1}
    assert found.hashed == 5
    assert found.raw == 0


@pytest.mark.feature("ID2")
def test_phone_forms_meet_and_national_numbers_need_a_region() -> None:
    digest = sha256(b"+447400123456").digest()
    for text in ("+44 7400 123456", "tel:+44-7400-123456", "+447400123456", "+44 (0)7400 123456", "+4407400123456"):
        assert one("phone_sha256", text) == digest
    assert one("phone_sha256", "07400 123456") is Reason.NO_REGION
    assert one("phone_sha256", "07400 123456", region="GB") == digest
    assert one("phone_sha256/digits-v1", "+44 7400 123456") == sha256(b"447400123456").digest()
    assert one("phone_sha256", "12", region="GB") is Reason.NOT_PHONE
    assert one("phone_sha256", "+999123456789") is Reason.NOT_PHONE


@pytest.mark.feature("ID3")
def test_namespaces_and_what_they_drop() -> None:
    assert one("loyalty", " A1 ") == b" A1 "
    assert one("loyalty", "é") == "é".encode()
    assert one("idfa", "00000000-0000-0000-0000-000000000000") is Reason.ZERO
    assert one("android_id", "0" * 16) is Reason.ZERO
    assert one("ecid", "0" * 38) is Reason.ZERO
    assert one("email_sha256", EMPTY) is Reason.EMPTY_HASH
    assert one("email_sha256", base64.b64encode(bytes.fromhex(EMPTY)).decode()) is Reason.EMPTY_HASH
    assert one("email_sha256", "  ") is Reason.EMPTY
    assert one("loyalty", "") is Reason.EMPTY
    assert one("loyalty", "x" * 256) is Reason.TOO_LONG
    assert one("ecid", "1" * 37) is Reason.NOT_ECID
    assert one("gaid", "not-a-device") is Reason.NOT_DEVICE


def test_device_ids_lose_their_case() -> None:
    text = "6D92078A-8246-4BA4-AE5B-76104861E7DC"
    assert one("idfa", text) == one("idfa", text.lower()) == one("idfa", text.replace("-", "")) == bytes.fromhex(
        text.replace("-", "")
    )  # fmt: skip
    assert one("android_id", "9774D56D682E549C") == bytes.fromhex("9774d56d682e549c")
    assert one("ecid", "12345678901234567890123456789012345678") == b"12345678901234567890123456789012345678"


def test_the_mail_rules_of_google_and_uid2() -> None:
    def meets(name: str, text: str, canonical: str) -> bool:
        return one(name, text) == sha256(canonical.encode()).digest()

    assert meets("email_sha256/lc-v1", "A.B+c@Gmail.com", "a.b+c@gmail.com")
    assert meets("email_sha256/google-v3", " A. B+c@GoogleMail.com", "ab@googlemail.com")
    assert meets("email_sha256/google-v3", "A.B+c@x.com", "a.b+c@x.com")
    assert meets("email_sha256/uid2-v1", "A.B+c@gmail.com", "ab@gmail.com")
    assert meets("email_sha256/uid2-v1", "A.B+c@googlemail.com", "a.b+c@googlemail.com")
    assert one("email_sha256/google-v3", "+c@gmail.com") is Reason.NOT_EMAIL


@pytest.mark.parametrize(
    "text", ["ann", "ann@", "@x.com", "a@b@c.com", "ann @x.com", "ann@x", "ann@.com", "ann@x..com"]
)
def test_what_is_no_address_is_dropped(text: str) -> None:
    assert one("email_sha256", text) is Reason.NOT_EMAIL


def test_a_hash_of_the_wrong_length_is_named() -> None:
    for text in ("ab" * 16, "ab" * 20, "ab" * 31 + "a", "0x" + "ab" * 33):
        assert one("email_sha256", text) is Reason.WRONG_LENGTH
        assert one("phone_sha256", text, form="hashed") is Reason.WRONG_LENGTH
    assert one("email_sha256", "g" * 64, form="hashed") is Reason.NOT_HASH


def test_a_flag_drops_the_other_kind_and_counts_both() -> None:
    column = ["ann@x.com", sha256(b"bob@x.com").hexdigest(), ""]
    raw = normalise(rule("email_sha256"), column, form="raw")
    assert raw.reasons.tolist() == [Reason.KEPT, Reason.IS_HASH, Reason.EMPTY]
    hashed = normalise(rule("email_sha256"), column, form="hashed")
    assert hashed.reasons.tolist() == [Reason.IS_RAW, Reason.KEPT, Reason.EMPTY]
    assert (hashed.raw, hashed.hashed) == (raw.raw, raw.hashed) == (1, 1)
    assert not hashed.values.rows[0].any()


def test_rules_are_looked_up_by_name() -> None:
    assert rule("email_sha256").id == "email_sha256/lc-v1"
    assert rule("loyalty").id == "loyalty/opaque-v1"
    with pytest.raises(InvalidInput):
        rule("email_sha256/md5")
    with pytest.raises(InvalidName):
        rule("Loyalty Card")
    assert check_region("gb") == "GB"
    with pytest.raises(InvalidInput):
        check_region("UK")


def rows(found: Normalised) -> list[tuple[bytes, int]]:
    return [
        (found.values[index] if found.keep[index] else b"", int(found.reasons[index]))
        for index in range(len(found.values))
    ]


TEXT = st.one_of(
    st.text(max_size=20),
    st.emails(),
    st.from_regex(r"\s*[A-Za-zÀ-ÿİΣß.+]{1,8}@(gmail|x)\.com\s*", fullmatch=True),
    st.from_regex(r"(0x)?[0-9a-fA-F]{63,65}", fullmatch=True),
    st.binary(min_size=32, max_size=32).map(lambda digest: base64.b64encode(digest).decode()),
    st.from_regex(r"(tel:)?\+?[0-9 ().-]{6,18}", fullmatch=True),
)


@settings(max_examples=examples(60), deadline=None)
@given(
    st.sampled_from(["email_sha256", "email_sha256/google-v3", "phone_sha256", "idfa", "loyalty"]),
    st.lists(TEXT, max_size=8),
)
def test_a_column_gives_what_its_values_give_one_by_one(name: str, column: list[str]) -> None:
    together = normalise(rule(name), column, region="GB")
    alone = [rows(normalise(rule(name), [text], region="GB"))[0] for text in column]
    assert rows(together) == alone


@settings(max_examples=examples(100), deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12))
def test_the_address_rule_is_pythons_strip_and_lower(local: str) -> None:
    text = f" {local}@Example.com\t"
    canonical = text.strip().lower()
    found = one("email_sha256", text)
    if not isinstance(found, Reason):
        assert found == sha256(canonical.encode()).digest()
    else:
        assert not local.strip() or any(c.isspace() or c < " " or c in "@\x7f" for c in canonical)


NUMBERS = st.one_of(
    st.from_regex(r"\+[1-9][0-9]{6,14}", fullmatch=True),
    st.builds(
        lambda country, rest: f"+{country}{rest}",
        st.sampled_from(sorted(phonenumbers.COUNTRY_CODE_TO_REGION_CODE)),
        st.from_regex(r"[0-9]{5,12}", fullmatch=True),
    ),
)


@settings(max_examples=examples(300), deadline=None)
@given(NUMBERS)
def test_the_fast_way_to_read_a_phone_agrees_with_phonenumbers(number: str) -> None:
    found = one("phone_sha256", number)
    slow = parse_phone(number, None)
    assert found == (sha256(slow.encode()).digest() if slow else Reason.NOT_PHONE)
    spaced = f" {number[:3]} ({number[3:6]}) {number[6:]}"
    assert parse_phone(spaced.strip(), None) == slow
    assert np.array_equal(
        normalise(rule("phone_sha256"), [number] * 2).values.rows[0],
        normalise(rule("phone_sha256"), [number]).values.rows[0],
    )


@st.composite
def dialled(draw: st.DrawFn) -> tuple[str, str | None]:
    """A number near a real one of some region, as people write it there or elsewhere, and the region of the file."""
    region = draw(st.sampled_from(sorted(phonenumbers.SUPPORTED_REGIONS)))
    metadata = phonenumbers.PhoneMetadata.metadata_for_region(region)
    assert metadata is not None
    examples = [
        kind.example_number for kind in (metadata.fixed_line, metadata.mobile) if kind and kind.example_number
    ] or ["1234567"]
    digits = list(draw(st.sampled_from(examples)))
    for place in draw(st.lists(st.integers(0, len(digits) - 1), max_size=2)):
        digits[place] = draw(st.sampled_from(["", *"0123456789"]))
    trunk, code = metadata.national_prefix or "", str(metadata.country_code)
    starts = [
        "",
        trunk,
        "0",
        code,
        code + trunk,
        "+" + code,
        f"+{code}({trunk})",
        f"tel:+{code}-",
        "00" + code,
        "+999",
        "+0",
    ]
    text = draw(st.sampled_from(starts)) + draw(st.sampled_from(["", " ", "-", "."])).join(digits)
    return text, draw(st.sampled_from([region, region, "GB", "US", None]))


@settings(max_examples=examples(1_000), deadline=None)
@given(dialled())
@example(("+44 (0)7400 123456", None))
@example(("0" + " " * 300 + "7400123456", "GB"))  # phonenumbers gives up on so long a text
@example(("(07400) 123-456\n", "GB"))
@example(("1 650 555 1212", "CA"))
@example(("0343 12 3456", "AR"))
def test_numbers_as_people_write_them_agree_with_phonenumbers(number: tuple[str, str | None]) -> None:
    text, region = number
    slow = parse_phone(text.strip(), region)
    found = one("phone_sha256", text, region=region)
    assert found == sha256(slow.encode()).digest() if slow else isinstance(found, Reason)


def slowly(name: str, text: str, form: str | None, region: str | None) -> tuple[bytes | Reason, str]:
    """Apply the rules to one value, word by word: its identity or why there is none, and its form."""
    text = text.strip()
    if not text:
        return Reason.EMPTY, ""
    for digest, shape in hashes_of(text):
        if form == "raw":
            return Reason.IS_HASH, ""
        return (Reason.EMPTY_HASH, "") if digest.hex() == EMPTY else (digest, shape)
    digits = text.lower().removeprefix("0x")
    hashlike = len(digits) >= 24 and not set(digits) - set("0123456789abcdef")
    canonical = address(name, text.lower()) if name.startswith("email") else parse_phone(text, region)
    if canonical and form != "hashed":
        return sha256(canonical.removeprefix("+" if name.endswith("digits-v1") else "").encode()).digest(), "raw"
    if canonical:
        return Reason.IS_RAW, ""
    if hashlike:
        return Reason.WRONG_LENGTH, ""
    national = name.startswith("phone") and region is None and not text.startswith(("+", "tel:+"))
    if national and sum(map(str.isdigit, text)) >= 5:
        return (Reason.IS_RAW if form == "hashed" else Reason.NO_REGION), ""
    if form == "hashed":
        return Reason.NOT_HASH, ""
    return (Reason.NOT_EMAIL if name.startswith("email") else Reason.NOT_PHONE), ""


def hashes_of(text: str) -> Iterator[tuple[bytes, str]]:
    """Give what a text is the hash of, and how it is written; nothing for what is no hash."""
    if len(text) in (64, 66) and text.isascii():
        digits = text[2:] if len(text) == 66 and text[:2].lower() == "0x" else text
        if len(digits) == 64 and not set(digits) - set("0123456789abcdefABCDEF"):
            yield bytes.fromhex(digits), "hex" if digits == text else "0x hex"
    plain = text.replace("-", "+").replace("_", "/").removesuffix("=" if len(text) == 44 else "")
    if len(plain) == 43 and plain.isascii() and plain.replace("+", "a").replace("/", "a").isalnum():
        digest = base64.b64decode(plain + "=")
        if base64.b64encode(digest).decode() == plain + "=":
            yield digest, "URL-safe Base64" if set(text) & set("-_") else "Base64"


def address(name: str, text: str) -> str:
    """Return the canonical address, or ""; `text` is in lower case."""
    if name.endswith("google-v3"):
        text = "".join(text.split())
    local, at, domain = text.partition("@")
    plain = {"lc-v1": (), "google-v3": ("gmail.com", "googlemail.com"), "uid2-v1": ("gmail.com",)}[
        name.partition("/")[2]
    ]
    if domain in plain:
        local = local.partition("+")[0].replace(".", "")
    text, labels = local + at + domain, domain.split(".")
    barred = any(
        sign.isspace() or sign < " " or sign in "@\x7f" or "\ud800" <= sign <= "\udfff" for sign in local + domain
    )
    return "" if barred or not local or len(labels) < 2 or not all(labels) else text


CELLS = st.one_of(
    TEXT,
    NUMBERS,
    dialled().map(lambda number: number[0]),
    st.text(st.sampled_from("\n\0\t =+@.aBΣßİ\u00a0\ud800\x1c\u2028٣-()😀:07"), max_size=12),
    st.builds("{}{}@{}".format, st.sampled_from(["", " ", "x\n", "\0", "É", "Σ"]), st.text("aB.+Σ", max_size=6),
              st.sampled_from(["x.com", "Gmail.com", "googlemail.com", "x..com", "ΑΣ.gr", "x"])),
    st.sampled_from(["", " ", "\n", "=+447400123456", "tel:tel:+447400123456", EMPTY, f"0x{EMPTY}", "ab" * 20, "a" * 70_000,
                     "0" + " " * 300 + "7400123456", "é" * 200 + "@x.com", "a" * 5_000 + "@x.com", "é" * 64, "\0" * 44]),
)  # fmt: skip


@pytest.mark.parametrize("rare", [32, 0], ids=["by column", "one by one"])
@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(
        [
            "email_sha256/lc-v1",
            "email_sha256/google-v3",
            "email_sha256/uid2-v1",
            "phone_sha256/e164-v1",
            "phone_sha256/digits-v1",
        ]
    ),
    st.sampled_from([None, "raw", "hashed"]),
    st.sampled_from(["GB", "US", "AR", "IT", None]),
    st.one_of(st.lists(CELLS, max_size=40), st.lists(st.one_of(st.just(""), st.just(" "), CELLS), max_size=20)),
)
def test_a_column_gives_what_the_rules_give_word_by_word(
    rare: int, monkeypatch: pytest.MonkeyPatch, name: str, form: Form | None, region: str | None, column: list[str]
) -> None:
    monkeypatch.setattr(phones, "RARE", rare)
    found = normalise(rule(name), column, form=form, region=region)
    expected = [slowly(name, text, form, region) for text in column]
    assert [value or reason for value, reason in rows(found)] == [value for value, _ in expected]
    assert found.forms == Counter(shape for _, shape in expected if shape)


def test_countries_that_are_rare_in_a_column_are_read_alike() -> None:
    column = [f"+447400{number:06}" for number in range(200)] + [
        "+39 06 5550 1234",
        "+1 (202) 555-0147",
        "+49 (0)30 23125",
    ]
    found = normalise(rule("phone_sha256"), column)
    assert [found.values[index] for index in (0, 199, 200, 201, 202)] == [
        sha256(number).digest()
        for number in (b"+447400000000", b"+447400000199", b"+390655501234", b"+12025550147", b"+493023125")
    ]


def test_values_with_line_breaks_in_them_stay_apart() -> None:
    column = ["ann@x.com", "x\nbob@x.com", "eve@x.com\n", "a\r\nb@x.com"]
    found = normalise(rule("email_sha256"), column)
    assert found.reasons.tolist() == [Reason.KEPT, Reason.NOT_EMAIL, Reason.KEPT, Reason.NOT_EMAIL]
    assert found.values[2] == sha256(b"eve@x.com").digest()
    phones = normalise(rule("phone_sha256"), ["+447400123456", "tel:1\n+447400123456", "tel:+447400123457"])
    assert phones.reasons.tolist() == [Reason.KEPT, Reason.NO_REGION, Reason.KEPT]
    assert phones.values[2] == sha256(b"+447400123457").digest()


@pytest.mark.parametrize(
    "name", ["emial_sha256", "email_sha265", "email", "e-mail", "emails", "phone-sha256", "mobile", "gaids"]
)
def test_a_standard_namespace_misspelt_is_none_of_ones_own(name: str) -> None:
    with pytest.raises(InvalidInput, match="no namespace") as refused:
        rule_for_import(name)
    assert f"{name}/opaque-v1" in refused.value.hint


@pytest.mark.parametrize("name", ["crmid", "email_md5", "email_sha1", "maid", "aaid", "dpid-20914", "loyalty"])
def test_a_namespace_of_ones_own_has_any_other_name(name: str) -> None:
    assert rule_for_import(name).id == f"{name}/opaque-v1"


@pytest.mark.parametrize("name", ["mail", "phones", "mobile"])
def test_a_namespace_of_ones_own_from_before_goes_on_under_its_full_name(name: str) -> None:
    """Agreements, generations and preflights name it, whatever it resembles."""
    assert rule(name) == rule(f"{name}/opaque-v1") == rule_for_import(f"{name}/opaque-v1")
