"""Subjects by name and as objects; and the messages about everything that is no subject."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fastapi import FastAPI
from litestar import Litestar
from starlette.applications import Starlette

from resilient import Bulkhead, Pipeline, Retry, Timeout, registry
from resilient.explain.object_reference import named
from resilient.explain.subject import Subject, subject_of
from resilient.server.asgi import ServerMiddleware

SHOP = '''
import functools
import httpx, httpx2, tenacity
from resilient import Bulkhead, Pipeline, Retry, Timeout
from resilient.http import httpx as ours, httpx2 as ours2
from resilient.server.asgi import ServerMiddleware

print("printed while it is imported")

class TouchedError(BaseException):
    """Nothing catches it: a function of the user's was called."""

users = Pipeline(Timeout(30), Retry(), name="users")
alone = Timeout(3)

@users
async def get_user(user_id):
    raise TouchedError

@users
def refresh():
    raise TouchedError

@users
@alone
def stacked():
    raise TouchedError

def traced(function):
    @functools.wraps(function)
    def call(*args):
        raise TouchedError
    return call

dressed = traced(refresh)
partial = functools.partial(get_user, 5)

class Repo:
    pipeline = users

    @users
    async def get(self): raise TouchedError

    @staticmethod
    @users
    def static(): raise TouchedError

    @users
    @classmethod
    def of_class(cls): raise TouchedError

    @property
    @users
    def price(self): raise TouchedError

class Callable:
    @users
    async def __call__(self): raise TouchedError

repo, callable_ = Repo(), Callable()
transport, transport2 = ours.AsyncTransport(users), ours2.AsyncTransport(users)
plain, plain2 = ours.Transport(users), ours2.Transport(users)
client, client2 = ours.AsyncClient(users), ours2.AsyncClient(users)
sync_client, sync_client2 = ours.Client(users), ours2.Client(users)
theirs, theirs2 = httpx.AsyncClient(transport=transport), httpx2.AsyncClient(transport=transport2)
mounted = httpx.Client(mounts={"https://": ours.Transport(users)})
two = httpx.Client(mounts={"https://": ours.Transport(users), "http://": ours.Transport(Pipeline(Timeout(1)))})
bare = httpx.Client()

async def app(scope, receive, send): raise TouchedError
server = ServerMiddleware(app, limit=Bulkhead(5), name="server")

by_region = {"eu": users, 7: [users]}

def make():
    print("printed while it is called")
    return users

def make_client(size=3):
    return ours.AsyncClient(users)

made_once = functools.cache(make)
made_partly = functools.partial(make_client, 5)

def make_nothing(): return None
def make_failing(): return Retry(attempts=0)
def delete_all() -> None: raise TouchedError
def count_all() -> "list[int]": raise TouchedError
def delete_user(user_id, why): raise TouchedError
async def delete_later(): raise TouchedError
def delete_each(): yield TouchedError

def bare_decorator(function):
    def call(*args, **kwargs): raise TouchedError
    return call

delete_wrapped = bare_decorator(delete_each)

class Task:
    def __call__(self): raise TouchedError

task = Task()
calls_partly = functools.partial(users.call, delete_all)
clear = by_region.clear

@tenacity.retry
def delete_again(): raise TouchedError
'''


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module in the working directory; its imports are undone afterwards."""
    (tmp_path / "named_shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, ModuleType]]:
    """A directory with the shop, and all modules after it has been imported from there."""
    directory = tmp_path_factory.mktemp("stocked")
    (directory / "named_shop.py").write_text(SHOP)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(sys, "modules", dict(sys.modules))
        named("named_shop:users")
        return directory, sys.modules


@pytest.fixture
def imported(shop: Path, stocked: tuple[Path, dict[str, ModuleType]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The shop, imported earlier, for a test that only looks at it: its clients take a while to make."""
    directory, modules = stocked
    monkeypatch.chdir(directory)
    monkeypatch.setattr(sys, "modules", dict(modules))


def first_policies(subject: Subject) -> list[str]:
    """The classes of its policies, one level deep."""
    assert subject.policy is not None
    policies = subject.policy.policies if isinstance(subject.policy, Pipeline) else (subject.policy,)
    return [type(each).__name__ for each in policies]


@pytest.mark.usefixtures("imported")
@pytest.mark.parametrize(
    ("name", "kind", "guards"),
    [
        ("users", "pipeline", None),
        ("alone", "policy", None),
        ("get_user", "function", "async"),
        ("refresh", "function", "def"),
        ("dressed", "function", "def"),
        ("partial", "function", "async"),
        ("Repo", "pipeline", None),
        ("repo", "pipeline", None),
        ("Repo.get", "function", "async"),
        ("repo.get", "function", "async"),
        ("Repo.static", "function", "def"),
        ("Repo.of_class", "function", "def"),
        ("Repo.price", "function", "def"),
        ("repo.price", "function", "def"),
        ("callable_", "function", "async"),
        ("transport", "transport", "async"),
        ("transport2", "transport", "async"),
        ("plain", "transport", "def"),
        ("plain2", "transport", "def"),
        ("client", "client", "async"),
        ("client2", "client", "async"),
        ("sync_client", "client", "def"),
        ("sync_client2", "client", "def"),
        ("theirs", "client", "async"),
        ("theirs2", "client", "async"),
        ("mounted", "client", "def"),
        ("by_region['eu']", "pipeline", None),
        ("by_region[7][0].policies[1]", "policy", None),
        ("make", "pipeline", None),
        ("made_once", "pipeline", None),
        ("made_partly", "client", "async"),
        ("calls_partly", "function", None),
        ("users.close", "function", None),
        ("make_client", "client", "async"),
    ],
)
def test_whatever_has_a_pipeline_is_found_and_not_called(name: str, kind: str, guards: str | None) -> None:
    """Its pipeline, and the kind of its function; a class with a pipeline is found too."""
    found = named(f"named_shop:{name}")

    assert (found.kind, found.guards) == (kind, guards)
    assert set(first_policies(found)) <= {"Timeout", "Retry"}
    assert (found.transport is not None) == (kind in ("transport", "client"))
    assert (found.function is not None) == (kind == "function" and guards is not None)


def test_several_decorators_are_examined_together() -> None:
    """The pipelines are in order, the outermost first."""
    found = named("named_shop:stacked")

    assert first_policies(found) == ["Pipeline", "Pipeline"]
    assert found.function is not None
    assert found.function.__name__ == "stacked"


def test_middleware_has_its_gate() -> None:
    """The gate stands in front of each server of a scenario."""
    found = named("named_shop:server")

    assert found.kind == "middleware"
    assert type(found.admission).__name__ == "Bulkhead"


@pytest.mark.parametrize("framework", ["starlette", "fastapi", "litestar", "ours"])
def test_application_has_the_middleware_that_it_was_given(framework: str) -> None:
    """It is found before the first request, with its `max_deadline`; the registry does not change."""
    before = Pipeline(Bulkhead(1), name="server")
    options: Any = {"limit": Bulkhead(7), "max_deadline": 30}
    app: Any
    if framework == "litestar":
        app = Litestar([], middleware=[ServerMiddleware.shared(**options, name="shared")])
    elif framework == "ours":
        app = ServerMiddleware(Starlette(), **options, name="ours")
    else:
        app = Starlette() if framework == "starlette" else FastAPI()
        app.add_middleware(ServerMiddleware, **options)
    found = subject_of("app", app)

    assert found.kind == "middleware"
    assert isinstance(found.admission, Pipeline)
    assert [type(policy).__name__ for policy in found.admission.policies] == ["Timeout", "Bulkhead"]
    assert registry.pipeline("server") is before


def test_what_a_module_prints_does_not_get_between_data(capsys: pytest.CaptureFixture[str]) -> None:
    """Output goes to standard error, while a module is imported and while a function makes a pipeline."""
    named("named_shop:make")

    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "printed while it is imported\nprinted while it is called\n"


def test_file_is_a_module(shop: Path) -> None:
    """A file in a package is imported by its full name, so that relative imports work."""
    package = shop / "far" / "pack" / "inner"
    package.mkdir(parents=True)
    for place in (package, package.parent):
        (place / "__init__.py").write_text("")
    (package / "deep.py").write_text("from .other import users\n")
    (package / "other.py").write_text("from resilient import Retry\nusers = Retry(7)\n")

    assert first_policies(named("named_shop.py:users")) == ["Timeout", "Retry"]
    assert first_policies(named(f"{shop}/named_shop.py:users")) == ["Timeout", "Retry"]
    assert named("far/pack/inner/deep.py:users") == named("far/pack/inner/other.py:users")
    assert sys.modules["pack.inner.deep"].__package__ == "pack.inner"


def test_package_and_its_modules_are_found(shop: Path) -> None:
    """A module of a package is an attribute of it, imported or not."""
    package = shop / "named_pack"
    package.mkdir()
    (package / "__init__.py").write_text("from resilient import Retry\nusers = Retry(7)\n")
    (package / "below.py").write_text("from . import users\n")

    assert named("named_pack:users") == named("named_pack:below.users") == named("named_pack.below:users")
    assert named("named_pack/__init__.py:users") == named("named_pack:users")


@pytest.mark.usefixtures("imported")
@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("named_shop", "'named_shop' must be MODULE:NAME, as in named_shop:users"),
        ("named_shop.py", "'named_shop.py' must be MODULE:NAME, as in named_shop:users"),
        ("named_shop:", "'named_shop:' must be MODULE:NAME"),
        (":users", "':users' must be MODULE:NAME"),
        (".shop:users", "must be MODULE:NAME, with the full name of a module, got '.shop': write shop:users"),
        ("far/shop:users", "'far/shop:users' must be MODULE:NAME: write far.shop:users"),
        ("no such:users", "must be MODULE:NAME, with the full name of a module, got 'no such'"),
        ("nowhere.py:users", "there is no file 'nowhere.py', of 'nowhere.py:users'"),
        ("nowhere:users", "there is no module 'nowhere', of 'nowhere:users'"),
        ("named_shop.deeper:users", "there is no module 'named_shop.deeper'"),
        ("named_shop:make()", "write it without ()"),
        ("named_shop:users + 1", "NAME is of attributes and items, as in users or clients['eu'].users"),
        ("named_shop:import", "NAME is of attributes and items"),
        (
            "named_shop:nothing",
            "there is no 'nothing' in 'named_shop'; its pipelines are Repo, alone,",
        ),
        ("named_shop:repo.nothing", "there is no 'nothing' in named_shop's Repo"),
        ("named_shop:by_region['us']", "there is no 'us' in named_shop's dict"),
        ("named_shop:by_region[7][5]", "there is no 5 in named_shop's list"),
        ("named_shop:by_region.eu", "there is no 'eu' in named_shop's dict"),
        ("named_shop:repo.price.x", "there is no 'x' in named_shop's property"),
    ],
)
def test_name_that_leads_nowhere_is_told_in_a_line(target: str, said: str) -> None:
    """The line has the right form."""
    with pytest.raises(ValueError, match=r"^[^\n]*$") as raised:
        named(target)
    assert said in str(raised.value)


@pytest.mark.usefixtures("imported")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "by_region",
            "must be a pipeline, a policy, a guarded function, a transport or client with a pipeline, or a func",
        ),
        ("by_region", "and is of type dict"),
        ("Pipeline", "and is the class Pipeline: write Pipeline(...)"),
        ("TouchedError", "and is the class TouchedError"),
        ("two", "has mounts with several pipelines: name the transport of one of them"),
        ("bare", "is a plain httpx.Client: no transport of resilient.http guards its requests"),
        ("make_nothing", "must return a pipeline, a policy or a decorator, and returned an object of type NoneType"),
        (
            "make_failing",
            "is the function make_failing, which failed when it was called: ValueError: attempts must be a whole "
            "number >= 1, got 0 (named_shop.py, line 86)",
        ),
        ("delete_all", "and is the function delete_all, which no pipeline guards, and which returns NoneType"),
        ("count_all", "and is the function count_all, which no pipeline guards, and which returns list"),
        ("delete_user", "and is the function delete_user, which no pipeline guards, and which needs user_id, why"),
        ("delete_wrapped", "which no pipeline guards, and which needs *args, **kwargs"),
        ("task", "and is of type Task"),
        ("clear", "and is of type builtin_function_or_method"),
        ("delete_later", "and is the function delete_later, which no pipeline guards"),
        ("delete_each", "and is the function delete_each, which no pipeline guards"),
        ("delete_again", "which tenacity guards, and no pipeline: a Retry takes the same strategies"),
        ("app", "and is the function app, which no pipeline guards"),
    ],
)
def test_what_cannot_be_examined_is_told_in_a_line_and_not_called(name: str, said: str) -> None:
    """The line says what the object is, and what would be right."""
    with pytest.raises(ValueError, match=rf"^'named_shop:{name}' [^\n]*$") as raised:
        named(f"named_shop:{name}")
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("\n\n1 / 0\n", "ZeroDivisionError: division by zero (named_broken.py, line 3)"),
        ("\ndef f(\n", "SyntaxError: '(' was never closed (named_broken.py, line 2)"),
        ("import sys\nsys.exit('bye\\nbye')\n", "SystemExit: bye bye (named_broken.py, line 2)"),
        ("from resilient import Retry\nRetry(attempts='3')\n", "without quotes (named_broken.py, line 2)"),
        ("import json\njson.loads('{')\n", "(named_broken.py, line 2)"),
        ("import no_such_module\n", "No module named 'no_such_module' (named_broken.py, line 1)"),
        ("from named_broken import users\n", "circular import"),
        ("from named_broken import users\n", "(named_broken.py, line 1)"),
    ],
)
def test_error_of_an_import_has_file_and_line(shop: Path, code: str, said: str) -> None:
    """They are those of the user's code that raised the error, or called the code that raised it."""
    (shop / "named_broken.py").write_text(code)
    with pytest.raises(ValueError, match=r"^'named_broken:users' cannot be imported: [^\n]*$") as raised:
        named("named_broken:users")
    assert said in str(raised.value)


def test_another_module_of_the_name_of_a_file_is_not_taken_for_it(shop: Path) -> None:
    """The name of the file is that of a module that is already imported."""
    (shop / "json.py").write_text("from resilient import Retry\nusers = Retry()\n")
    with pytest.raises(ValueError, match=r"^'json.py:users' cannot be imported: another module is called 'json' \("):
        named("json.py:users")


def test_object_that_cannot_be_looked_at_is_told_in_a_line() -> None:
    """For example, a proxy without its object outside a request."""

    class Proxy:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("outside of a request")

        __class__ = property(lambda self: self.anything)  # type: ignore[assignment]

    with pytest.raises(TypeError, match=r"^mine cannot be examined: RuntimeError: outside of a request \(.*\)$"):
        subject_of("mine", Proxy())


def test_working_directory_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message names the working directory, not standard output."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ValueError, match=r"^'shop:users' cannot be imported: the working directory: No such file"):
        named("shop:users")


class Anything:
    """Has every attribute, each of which is the object itself."""

    def __getattr__(self, name: str) -> Anything:
        return self

    def __call__(self) -> Anything:
        return self


def test_object_with_every_attribute_is_told_in_a_line() -> None:
    """It seems to wrap another function for ever."""
    with pytest.raises(TypeError, match=r"^it must be a pipeline, .* and is of type Anything$"):
        subject_of("it", Anything())


def test_object_is_examined_as_its_name_is() -> None:
    """A decorator of another library is accepted from a function that makes one."""
    retry: Any = Retry()

    assert subject_of("mine", retry) == Subject("policy", retry)
    assert subject_of("mine", lambda: Timeout(1)).kind == "policy"
    assert subject_of("mine", lambda: lambda function: function).kind == "decorator"
    with pytest.raises(
        TypeError, match=r"^mine must return a pipeline or a policy, and returned an object of type func"
    ):
        subject_of("mine", lambda: lambda function: function, decorators=False)
    with pytest.raises(TypeError, match=r"^mine must be a pipeline, .* and is of type int$"):
        subject_of("mine", 5)
