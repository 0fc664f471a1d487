"""A party of SecretFlow's PSI, from the package spu: its link between the parties, its files in and out.

python -m benchmarks.peer_sides.secretflow
"""

import os
from pathlib import Path
from typing import Any

import spu.psi as psi  # type: ignore[import-not-found]
from spu import libspu

from . import side

TIMEOUT_MILLISECONDS = 3_600_000  # the default of 30 seconds is less than a step of a large set
RECEIVER = 0  # the rank of who learns the result


class Party:
    def __init__(self) -> None:
        self._link: Any = None

    def run(self, path: str, target: str, rank: int, hosts: list[str], protocol: str, curve: str) -> str:
        """Run one intersection; the receiver's `target` then holds its rows in common."""
        self._connect(rank, hosts)
        parameters: dict[str, Any] = {"protocol": psi.PsiProtocol.__members__[f"PROTOCOL_{protocol}"]}
        if curve:
            parameters["ecdh_params"] = psi.EcdhParams(curve=psi.EllipticCurveType.__members__[f"CURVE_{curve}"])
        config = psi.PsiExecuteConfig(
            protocol_conf=psi.PsiProtocolConfig(receiver_rank=RECEIVER, broadcast_result=False, **parameters),
            input_params=psi.InputParams(path=path, selected_keys=[side.HEAD], keys_unique=True),
            output_params=psi.OutputParams(path=target, disable_alignment=True),
        )
        psi.psi_execute(config, self._link)
        self._link.stop_link()
        return target

    def prepare(self, path: str, rank: int, hosts: list[str], server: bool, folder: str) -> None:
        """Make the server's cache and bring it to the client."""
        self._connect(rank, hosts)
        if server:
            alone = libspu.link.Desc()
            alone.add_party("alone", "alone")
            mode = psi.UbPsiMode.MODE_OFFLINE_GEN_CACHE
            psi.ub_psi_execute(self._unbalanced(mode, server, folder, path), libspu.link.create_mem(alone, 0))
        mode = psi.UbPsiMode.MODE_OFFLINE_TRANSFER_CACHE
        psi.ub_psi_execute(self._unbalanced(mode, server, folder, path), self._link)

    def online(self, path: str, target: str, server: bool, folder: str) -> str:
        """Find the client's items in the cache; its `target` then holds its rows in common."""
        config = self._unbalanced(psi.UbPsiMode.MODE_ONLINE, server, folder, path, target)
        psi.ub_psi_execute(config, self._link)
        return target

    def _connect(self, rank: int, hosts: list[str]) -> None:
        parties = libspu.link.Desc()
        for number, host in enumerate(hosts):
            parties.add_party(str(number), host)
        # http_timeout_ms stays as it is: a message lost while the parties connect is sent again only after it
        parties.recv_timeout_ms = TIMEOUT_MILLISECONDS
        self._link = libspu.link.create_brpc(parties, rank)

    def _unbalanced(self, mode: Any, server: bool, folder: str, path: str, target: str = "") -> Any:
        secret = Path(folder) / "server.key"
        if server and not secret.exists():
            secret.write_bytes(os.urandom(32))
        return psi.UbPsiExecuteConfig(
            mode=mode,
            role=psi.UbPsiRole.ROLE_SERVER if server else psi.UbPsiRole.ROLE_CLIENT,
            client_receive_result=True,
            cache_path=f"{folder}/cache",
            input_params=psi.InputParams(path=path, selected_keys=[side.HEAD], keys_unique=True),
            output_params=psi.OutputParams(path=target, disable_alignment=True),
            server_params=psi.UbPsiServerParams(secret_key_path=str(secret) if server else ""),
        )


if __name__ == "__main__":
    party = Party()
    side.serve({"run": party.run, "prepare": party.prepare, "online": party.online})
