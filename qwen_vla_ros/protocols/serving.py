"""`qwen-vla serve --protocol ... [--benchmark ...]`: our policy for the clients of others."""

import argparse
import os
from typing import TYPE_CHECKING, Any

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.protocols.field_benchmarks import FieldBenchmark, StillPolicy
from qwen_vla_ros.protocols.layout import generic_layout
from qwen_vla_ros.protocols.seat import Seat

if TYPE_CHECKING:
    from qwen_vla_ros.policy import ModelPolicies, Policy
    from qwen_vla_ros.protocols.websocket_server import OpenpiServer
    from qwen_vla_ros.protocols.zmq_server import Gr00tServer


def run_from_arguments(args: argparse.Namespace) -> int:
    """Serve until interrupted; the token comes from QWEN_VLA_TOKEN."""
    from qwen_vla_ros.evaluate.choose_policy import name_policy
    from qwen_vla_ros.evaluate.processes import EndOfServing, interrupted_by_signals

    with interrupted_by_signals():
        seat = seat_from_arguments(args)
        token = os.environ.get('QWEN_VLA_TOKEN')
        with foreign_server(seat, args.host, args.port, token) as server:
            ended = EndOfServing()
            for line in told_keys(seat):
                print(line)
            print(
                f'serving {name_policy(args)} to {seat.layout.protocol} clients on '
                f'{server.address}',
                flush=True,
            )
            ended.wait()
    return 0


def seat_from_arguments(args: argparse.Namespace) -> Seat:
    """Return the policy that the command line asks for, in the seat of its clients."""
    protocol = None if args.protocol in (None, 'qwen-vla') else args.protocol
    if args.benchmark is None:
        policy = _policy(args)
        opens = getattr(policy, 'open', None)
        metadata = (policy if opens is None else opens(args.robot or '')).metadata
        layout = generic_layout(str(protocol), metadata)
        return Seat(policy, layout, int(metadata['horizon']), robot=args.robot or '')
    if args.protocol == 'qwen-vla':
        raise QwenVlaError("--benchmark: its client does not speak qwen-vla's own protocol")
    benchmark = FieldBenchmark.load(args.benchmark)
    if args.policy == 'expert':
        raise QwenVlaError('--benchmark: the scripted expert knows our own worlds only')
    if args.policy == 'constant':
        return benchmark.seat(
            StillPolicy(benchmark, tuple(benchmark.client(protocol).views)), protocol
        )
    return benchmark.seat(_policy(args), protocol, args.robot or '')


def foreign_server(
    seat: Seat, host: str, port: int | None, token: str | None = None
) -> 'OpenpiServer | Gr00tServer':
    """Return the server of a seat, not yet listening; without a port its protocol's usual one."""
    if seat.layout.protocol == 'gr00t':
        from qwen_vla_ros.protocols.zmq_server import GR00T_PORT, Gr00tServer

        return Gr00tServer(seat, host, GR00T_PORT if port is None else port, token)
    from qwen_vla_ros.protocols import websocket_server as sockets

    kinds: dict[str, Any] = {
        'openpi': (sockets.OpenpiServer, sockets.OPENPI_PORT),
        'starvla': (sockets.StarvlaServer, sockets.STARVLA_PORT),
    }
    kind, usual = kinds[seat.layout.protocol]
    return kind(seat, host, usual if port is None else port, token)


def told_keys(seat: Seat) -> list[str]:
    """Return lines that tell what a client has to send and will get."""
    layout = seat.layout
    lines = [f'{view:20} {" or ".join(keys)}' for view, keys in layout.views.items()]
    lines += [f'{"state":20} {key} ({", ".join(names)})' for key, names in layout.state.items()]
    lines.append(f'{"instruction":20} {" or ".join(layout.instruction)}')
    for part in layout.actions:
        lines.append(f'{"actions":20} {", ".join(part.keys)} ({", ".join(part.names)})')
    return lines


def _policy(args: argparse.Namespace) -> 'Policy | ModelPolicies':
    from qwen_vla_ros.evaluate.choose_policy import serve_policy

    return serve_policy(args)
