"""Commands: python -m minist COMMAND, and --help after it says more."""

import argparse
from typing import NoReturn

from minist.cli import run_command
from minist.commands import evaluate, expand, look, map, merge, mine, report, search, tune

# in the order in which a person meets them
COMMANDS = {
    "look": look,
    "search": search,
    "evaluate": evaluate,
    "report": report,
    "mine": mine,
    "map": map,
    "expand": expand,
    "merge": merge,
    "tune": tune,
}


class Parser(argparse.ArgumentParser):
    """Whose errors are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}: --help lists what there is\n")


def parse() -> argparse.Namespace:
    plain = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="python -m minist", description=__doc__, formatter_class=plain)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP, description=module.__doc__, formatter_class=plain)
        module.add_options(command)
        command.add_argument("--revision", help="branch, tag or commit of a model on the hub")
        command.add_argument("--device", help="cpu, cuda, cuda:1 .. (default: the GPU if there is one)")
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parse()
    run_command(lambda: COMMANDS[arguments.command].run(arguments), arguments.debug)
