"""Run all benchmarks and print one table; exit code 1 when a goal is missed."""

import pkgutil
import sys
from importlib import import_module

import benchmarks


def all_results() -> list[benchmarks.Result]:
    """Run every file of this folder that has run(), in the order of its name."""
    names = sorted(info.name for info in pkgutil.iter_modules(benchmarks.__path__))
    print(benchmarks.HEADING, flush=True)
    results = []
    for name in names:
        module = import_module(f'benchmarks.{name}') if name != '__main__' else None
        if hasattr(module, 'run'):
            results.append(module.run())
            print(results[-1].as_line(), flush=True)
    return results


if __name__ == '__main__':
    sys.exit(0 if all(result.holds for result in all_results()) else 1)
