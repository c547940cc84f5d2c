"""Deciders of the service commands, health reports included."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from coordinator.commands.service import DeregisterService, HeartbeatService, ReportCheck, ReportNotChecked
from coordinator.deciders.rules import Rules
from coordinator.deciders.service import check_host, check_url, living
from events.errors import NotFound, Refused
from events.service import ServiceDeregistered, ServiceHealthChanged, ServiceRegistered, ServiceStatus
from tests.specification import fold, given
from tests.unit.deciders.facts import (
    HOSTILE_IDS,
    HOSTILE_TEXTS,
    INFINITY,
    NAN,
    URL,
    a_container,
    health,
    register_service,
    service,
)

HEALTHY, UNHEALTHY, UNKNOWN, OFFLINE = (
    ServiceStatus.HEALTHY,
    ServiceStatus.UNHEALTHY,
    ServiceStatus.UNKNOWN,
    ServiceStatus.OFFLINE,
)
GONE = ServiceDeregistered(service_id="s")


def probed(status: ServiceStatus) -> tuple[ServiceRegistered | ServiceHealthChanged, ...]:
    """Return the events of a service with a health URL in *status*."""
    known = service(status=UNKNOWN, health_check_url=URL)
    return (known,) if status is UNKNOWN else (known, health(status, UNKNOWN))


def report(ok: bool, **others: object) -> ReportCheck:
    return ReportCheck(**{"service_id": "s", "ok": ok, "check": "http", "detail": "seen", **others})  # type: ignore[arg-type]  # hostile values are the point


# --- registering ------------------------------------------------------------------------------------------------------


def test_a_service_without_a_url_is_healthy_at_once() -> None:
    """A service without a health URL is healthy while it sends heartbeats."""
    order = register_service(tags=("eu",), metadata={"model": "x"}, weight=3, container_id="k", worker_id="w")
    wanted = service(status=HEALTHY, tags=("eu",), metadata={"model": "x"}, weight=3, container_id="k", worker_id="w")
    given().when(order).then(wanted).then_answers("s")


def test_a_service_with_a_url_is_unknown_until_its_first_check() -> None:
    """Its health is unknown before the first check."""
    given().when(register_service(health_check_url=URL)).then(service(status=UNKNOWN, health_check_url=URL))


@pytest.mark.parametrize("facts", [(service(),), probed(HEALTHY), probed(UNHEALTHY), probed(UNKNOWN)])
def test_the_same_service_again_is_already_so(facts: tuple[ServiceRegistered, ...]) -> None:
    """A repeated registration does not change its health."""
    order = register_service(health_check_url=facts[0].health_check_url)
    given(*facts).when(order).then_nothing().then_answers("s")


@pytest.mark.parametrize("difference", [{"port": 9}, {"host": "elsewhere"}, {"health_check_url": ""}])
@pytest.mark.parametrize("before", [HEALTHY, UNHEALTHY])
def test_an_instance_that_moved_is_judged_anew(before: ServiceStatus, difference: dict[str, Any]) -> None:
    """What is known is about another host, port or URL."""
    order = {"health_check_url": URL, **difference}
    status = UNKNOWN if order["health_check_url"] else HEALTHY
    given(*probed(before)).when(register_service(**order)).then(service(status=status, **order))


@pytest.mark.parametrize(
    "difference",
    [{"tags": ("eu",)}, {"metadata": {"a": "b"}}, {"weight": 2}, {"service_name": "other"}, {"container_id": "k"}],
)
@pytest.mark.parametrize("before", [HEALTHY, UNHEALTHY, UNKNOWN])
def test_other_facts_keep_the_health_of_an_instance(before: ServiceStatus, difference: dict[str, Any]) -> None:
    """Neither the status nor how long it holds changes while host, port and URL stay."""
    order = {"health_check_url": URL, **difference}
    decided = given(*probed(before)).when(register_service(**order))
    was = decided.world.services["s"]
    now = decided.then(service(status=before, keeps_health=True, **order)).world.services["s"]
    assert (now.status, now.health_rule, now.changed_at) == (before, was.health_rule, was.changed_at)
    assert now.registered_at > was.registered_at
    unhealthy_by_custom_checks = (service(), health(UNHEALTHY, HEALTHY))
    given(*unhealthy_by_custom_checks).when(register_service(**difference)).then(
        service(status=UNHEALTHY, keeps_health=True, **difference)
    )


def test_one_failed_check_after_a_new_registration_does_not_decide() -> None:
    """The row of equal checks counts on."""
    world = given(*probed(HEALTHY))
    world.when(register_service(health_check_url=URL, weight=2)).fold()
    world.when(report(ok=False), streak=1).then_nothing()


def test_registering_brings_a_service_back() -> None:
    """It may have been offline or deregistered."""
    given(service(), health(OFFLINE, HEALTHY)).when(register_service()).then(service())
    given(service(), GONE).when(register_service()).then(service())


def test_a_full_registry_refuses_new_services_only() -> None:
    """Registered services may change; deregistered ones do not count."""
    rules = Rules(max_services=1)
    full = given(service(), service("gone"), ServiceDeregistered(service_id="gone"))
    full.when(register_service("new"), rules=rules).then_refused("registry_full", "1 services", "max_services")
    full.when(register_service("gone"), rules=rules).then_refused("registry_full")
    full.when(register_service(port=9), rules=rules).then(service(port=9))


@pytest.mark.parametrize("bad", HOSTILE_IDS)
@pytest.mark.parametrize("field", ["service_id", "service_name", "service_type", "container_id", "worker_id"])
def test_names_of_services_are_ids(field: str, bad: str) -> None:
    """They appear in subjects and paths; only optional ones may be empty."""
    if bad or not field.endswith(("container_id", "worker_id")):
        given().when(register_service(**{field: bad})).then_refused("bad_id", field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("port", value) for value in (-1, 65_536, NAN, INFINITY)],
        *[("weight", value) for value in (0, -1, 1001, NAN, INFINITY)],
    ],
)
def test_numbers_of_services_are_in_range(field: str, value: float) -> None:
    """The refusal names the number and the range."""
    wrong: dict[str, Any] = {field: value}
    given().when(register_service(**wrong)).then_refused("bad_number", field, repr(value), "use ")


@pytest.mark.parametrize(
    ("difference", "reason", "named"),
    [
        ({"tags": ("",)}, "bad_text", "tags"),
        ({"tags": ("a\n",)}, "bad_text", "tags"),
        ({"tags": ("a",) * 65}, "too_many", "65 tags"),
        ({"metadata": {"": "a"}}, "bad_text", "metadata key"),
        ({"metadata": {"a\0": "a"}}, "bad_text", "metadata key"),
        ({"metadata": {"a": "\n"}}, "bad_text", "metadata['a']"),
        ({"metadata": {"a": "x" * 1025}}, "bad_text", "1025 characters"),
        ({"metadata": {f"k{n}": "" for n in range(65)}}, "too_many", "65 metadata"),
    ],
)
def test_labels_of_services_are_few_short_and_printable(difference: dict[str, Any], reason: str, named: str) -> None:
    """The refusal names what is wrong."""
    given().when(register_service(**difference)).then_refused(reason, named)


GOOD_HOSTS = ["localhost", "192.168.1.100", "agent-1.svc.cluster.local", "::1", "fe80::1%eth0", "a_b", "xn--bcher-kva"]
BAD_HOSTS = [
    "a b",
    "a..b",
    ".",
    "a.",
    "http://a",
    "a/b",
    "a:80",
    "a@b",
    "a?b",
    "[::1]",
    "fe80::1%/../x",
    "fe80::1%a b",
    "bücher",
    "²",
    "x" * 64,
    "%00",
]


@pytest.mark.parametrize("host", GOOD_HOSTS)
def test_a_host_is_a_name_or_an_address(host: str) -> None:
    """Names, IPv4 and IPv6, zones included."""
    check_host("host", host)
    given().when(register_service(host=host)).then(service(host=host))


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_what_is_no_host_is_refused(host: str) -> None:
    """The refusal shows the value and what is allowed."""
    given().when(register_service(host=host)).then_refused("bad_host", repr(host), "IP address")


@pytest.mark.parametrize("host", ["", *HOSTILE_TEXTS, "x" * 254])
def test_a_host_is_printable_and_of_some_length(host: str) -> None:
    """Other text never reaches a resolver."""
    given().when(register_service(host=host)).then_refused("bad_text", "host")


GOOD_URLS = [URL, "https://a.example/health?deep=1", "http://[::1]:80/", "tcp://db:5432", "HTTP://h", "http://h:0/"]
BAD_URLS = [
    "ftp://h/",
    "file:///etc/passwd",
    "gopher://h",
    "javascript:alert(1)",
    "//h/",
    "h",
    "http://",
    "http:///path",
    "http://:80/",
    "http://h:99999/",
    "http://h:x/",
    "http://user:secret@h/",
    "http://user@h/",
    "http://@h/",
    "http://h\\@evil/",
    "http://h/#part",
    "http://[::1/",
    "http://[::zz]/",
    "http://h\u2100/",
]


@pytest.mark.parametrize("url", GOOD_URLS)
def test_a_health_url_is_one_that_can_be_probed(url: str) -> None:
    """By HTTP, HTTPS or TCP."""
    check_url(url)


@pytest.mark.parametrize("url", BAD_URLS)
def test_what_cannot_be_probed_is_refused(url: str) -> None:
    """Other schemes, no host, credentials, fragments; the refusal shows the URL and what is allowed."""
    error = given().when(register_service(health_check_url=url)).then_refused("bad_url", "http://host:port/path")
    assert url[:20] in error.message or repr(url)[1:-1] in error.message


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("tcp://h", "bad_url"),
        ("http://a b/", "bad_host"),
        ("http://a..b/", "bad_host"),
        ("http://a*/", "bad_host"),
        ("http://h/\n", "bad_text"),
        ("http://h/\0", "bad_text"),
        ("http://h/" + "x" * 2048, "bad_text"),
    ],
)
def test_a_url_is_refused_for_what_is_wrong_with_it(url: str, reason: str) -> None:
    """TCP needs a port, hosts are checked like any host, and nothing unprintable comes near a request."""
    given().when(register_service(health_check_url=url)).then_refused(reason)


@for_all(st.text(min_size=0, max_size=30))
def test_no_text_can_break_the_check_of_urls(text: str) -> None:
    """Any input is accepted or refused with a reason."""
    for url in (text, f"http://{text}", f"http://h{text}", f"tcp://h:{text}"):
        with suppress(Refused):
            check_url(url)


# --- deregistering, heartbeats ----------------------------------------------------------------------------------------


def test_a_registration_that_is_no_more_changes_nothing() -> None:
    """The program that registered last is the one that may speak for the service."""
    first, second = service(registration="first"), service(registration="second")
    given(first).when(register_service(registration="first")).then_nothing()
    given(first).when(register_service(registration="second")).then(service(registration="second", keeps_health=True))
    replaced = given(first, second)
    for named in ("first", "1.0"):
        replaced.when(DeregisterService(service_id="s", registration=named)).then_refused("replaced", "'s'")
        replaced.when(HeartbeatService(service_id="s", registration=named)).then_refused("replaced", "'s'")
    replaced.when(HeartbeatService(service_id="s", registration="second")).then_nothing()
    replaced.when(DeregisterService(service_id="s", registration="second")).then(ServiceDeregistered(service_id="s"))
    given(first, second).when(DeregisterService(service_id="s")).then(ServiceDeregistered(service_id="s"))


def test_an_earlier_generation_of_a_container_cannot_register_its_service() -> None:
    """It would take the place of the one that runs."""
    facts = a_container("running")
    generation = given(*facts).world.containers["k"].generation
    given(*facts).when(register_service(container_id="k", generation="1.7")).then_refused("replaced", generation)
    given(*facts).when(register_service(container_id="k", generation=generation)).then(service(container_id="k"))


def test_a_service_is_taken_off_once() -> None:
    """A repeat changes nothing."""
    order = DeregisterService(service_id="s", reason="upgrade")
    given(service()).when(order).then(ServiceDeregistered(service_id="s", reason="upgrade")).then_answers(None)
    given(service(), GONE).when(order).then_nothing()


def test_a_heartbeat_is_not_on_record() -> None:
    """A heartbeat never changes the health: only silence and checks do."""
    beat = HeartbeatService(service_id="s", load=0.5, connections=3, response_time_ms=1.5)
    for facts in ((service(),), probed(UNKNOWN), probed(UNHEALTHY)):
        given(*facts).when(beat).then_nothing().then_answers(None)


def test_a_heartbeat_brings_back_what_was_given_up() -> None:
    """Without a URL it is healthy again; with one the next check decides."""
    back = ServiceHealthChanged(
        service_id="s", status=HEALTHY, previous=OFFLINE, rule="heartbeat", detail="it was heard again"
    )
    given(service(), health(OFFLINE, HEALTHY)).when(HeartbeatService(service_id="s")).then(back)
    unknown = ServiceHealthChanged(
        service_id="s", status=UNKNOWN, previous=OFFLINE, rule="heartbeat", detail="it was heard again"
    )
    given(*probed(OFFLINE)).when(HeartbeatService(service_id="s")).then(unknown)


@pytest.mark.parametrize("field", ["load", "connections", "response_time_ms"])
@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY, -1.0, 1e10])
def test_a_heartbeat_tells_sensible_numbers(field: str, value: float) -> None:
    """NaN would win every comparison of loads, or none."""
    beat = HeartbeatService(**{"service_id": "s", field: value})  # type: ignore[arg-type]  # as a door might
    given(service()).when(beat).then_refused("bad_number", field, repr(value))


@pytest.mark.parametrize(
    "order", [DeregisterService(service_id="s"), HeartbeatService(service_id="s"), report(ok=True)]
)
def test_a_service_that_never_was_is_not_found(order: DeregisterService) -> None:
    """The error says to register it."""
    given().when(order).then_refused("not_found", "'s'", "register it", code="not_found")


def test_a_deregistered_service_has_no_heartbeat() -> None:
    """The error says that it must register again."""
    for order in (HeartbeatService(service_id="s"), report(ok=True)):
        given(service(), GONE).when(order).then_refused("not_found", "was deregistered")
    with pytest.raises(NotFound):
        living(fold(service(), GONE), "s")
    with pytest.raises(Refused, match="service_id"):
        living(fold(), "a b")


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_reasons_and_details_are_printable(text: str) -> None:
    """They are shown on terminals."""
    given(service()).when(DeregisterService(service_id="s", reason=text)).then_refused("bad_text", "reason")
    given(service()).when(report(ok=True, detail=text)).then_refused("bad_text", "detail")
    given(service()).when(report(ok=True, check=text)).then_refused("bad_text", "check")


# --- checks -----------------------------------------------------------------------------------------------------------


def changed(status: ServiceStatus, previous: ServiceStatus, rule: str) -> ServiceHealthChanged:
    return ServiceHealthChanged(service_id="s", status=status, previous=previous, rule=rule, detail="seen")


@pytest.mark.parametrize(("ok", "status"), [(True, HEALTHY), (False, UNHEALTHY)])
def test_the_first_check_decides_at_once(ok: bool, status: ServiceStatus) -> None:
    """An unknown service is used only if there is no healthy one, so to wait for a second check would not help."""
    given(*probed(UNKNOWN)).when(report(ok)).then(changed(status, UNKNOWN, "first http check"))


@pytest.mark.parametrize("before", list(ServiceStatus))
def test_a_check_that_could_not_be_made_changes_nothing(before: ServiceStatus) -> None:
    """It says nothing about the service; it is refused for one that is not registered, and if it is malformed."""
    given(*probed(before)).when(ReportNotChecked(service_id="s", check="http", detail="no route")).then_nothing()
    given().when(ReportNotChecked(service_id="s", check="http")).then_refused("not_found", "s")
    given(*probed(before)).when(ReportNotChecked(service_id="s", check="")).then_refused("bad_text", "check")
    long = ReportNotChecked(service_id="s", check="http", detail="x" * 10_000_000)
    given(*probed(before)).when(long).then_refused("bad_text", "detail")


@pytest.mark.parametrize("before", [HEALTHY, UNHEALTHY])
def test_a_check_that_says_what_is_known_changes_nothing(before: ServiceStatus) -> None:
    """Any number of equal checks changes nothing."""
    given(*probed(before)).when(report(ok=before is HEALTHY), streak=9).then_nothing()


@pytest.mark.parametrize(("ok", "before", "after"), [(False, HEALTHY, UNHEALTHY), (True, UNHEALTHY, HEALTHY)])
def test_health_changes_only_after_some_checks_in_a_row(ok: bool, before: ServiceStatus, after: ServiceStatus) -> None:
    """One check less than needed changes nothing; rise and fall have separate limits."""
    rules = Rules(check_rise=3, check_fall=5)
    needed = 3 if ok else 5
    outcome = "passed" if ok else "failed"
    world = given(*probed(before))
    world.when(report(ok), rules=rules, streak=needed - 1).then_nothing()
    rule = f"{needed} http checks in a row {outcome}"
    world.when(report(ok), rules=rules, streak=needed).then(changed(after, before, rule))


def test_checks_bring_a_silent_service_back_only_in_a_row() -> None:
    """One passed check is not enough."""
    world = given(service(), health(OFFLINE, HEALTHY))
    world.when(report(ok=True), streak=1).then_nothing()
    world.when(report(ok=True), streak=2).then(changed(HEALTHY, OFFLINE, "2 http checks in a row passed"))


def test_a_failed_check_says_nothing_new_of_a_silent_service() -> None:
    """It stays OFFLINE: with each failed check it would be UNHEALTHY, and OFFLINE again for its silence."""
    given(service(), health(OFFLINE, HEALTHY)).when(report(ok=False), streak=9).then_nothing()


@pytest.mark.parametrize("every_s", [NAN, INFINITY, -1.0])
def test_an_interval_is_a_duration(every_s: float) -> None:
    """The refusal names it."""
    given(service()).when(report(ok=True, every_s=every_s)).then_refused("bad_number", "every_s")


@pytest.mark.parametrize("latency_ms", [NAN, INFINITY, -1.0])
def test_a_latency_is_a_duration(latency_ms: float) -> None:
    """The refusal names it."""
    given(service()).when(report(ok=True, latency_ms=latency_ms)).then_refused("bad_number", "latency_ms")


@for_all(st.lists(st.booleans(), max_size=40))
def test_health_follows_the_checks_with_hysteresis(outcomes: list[bool]) -> None:
    """The health follows the last long enough row of equal outcomes, or the first check."""
    world = given(*probed(UNKNOWN))
    streak, expected = 0, UNKNOWN
    for index, ok in enumerate(outcomes):
        streak = streak + 1 if index and outcomes[index - 1] is ok else 1
        decided = world.when(report(ok), streak=streak)
        if decided.events:
            decided.fold()
        if expected is UNKNOWN or streak >= 2:
            expected = HEALTHY if ok else UNHEALTHY
        assert world.world.services["s"].status is expected
