"""The command line: ``concordant VERB --config FILE --a.b=c``. Nothing heavy is imported before a verb starts.

Exit codes: 0 done, 1 failed, 2 wrong usage or bad input, 3 stopped early but resumable.
"""

from __future__ import annotations

import errno
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from concordant.core.errors import DONE, FAILED, STOPPED, WRONG_USAGE, RunFailed, RunStopped, UserError
from concordant.core.visible import all_messages_visible, say, visible
from concordant.engines.group import started
from concordant.training.interrupt import interruptible
from concordant.verbs import VERBS, call, unknown_verb, verb_named

_OTHER = {
    "run": "run a pipeline of stages from a YAML file, or repeat a run from its config.yaml",
    "demo": "the whole pipeline on the built-in toy world, in minutes on a laptop",
}

# What the machine lacks or forbids: no bug, and a traceback would say nothing more.
_THE_MACHINES = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.EIO}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. All errors end here, with one line that says what to do."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        rank, ranks = started.world()
    except UserError as problem:
        return _ended("error", problem, WRONG_USAGE)
    if rank > 0:
        from concordant.engines.group import helper

        return helper.main()
    code = _main(given)
    if ranks > 1:
        from concordant.engines.group.everywhere import dismiss

        dismiss()
    return code


def _main(arguments: list[str]) -> int:
    try:
        with interruptible(), all_messages_visible():
            return dispatch(arguments)
    except UserError as problem:
        return _ended("error", problem, WRONG_USAGE)
    except RunStopped as stop:
        return _ended("stopped", stop, STOPPED)
    except RunFailed as failure:
        return _ended("failed", failure, FAILED)
    except KeyboardInterrupt:
        return _ended("stopped", "interrupted; nothing is half-written, the same command starts again", STOPPED)
    except BrokenPipeError:  # the reader of our output, `head` say, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit fails again
        return DONE
    except SystemExit as leaving:  # its code may be 0, and the work is not done
        if isinstance(leaving.__context__, BrokenPipeError):  # rich leaves so where the reader of a table has gone
            return DONE
        what = f"sys.exit({leaving.code!r}) was called in the middle of the work, by a reward function perhaps"
        return _ended("failed", what, FAILED)
    except MemoryError:
        return _ended("failed", "out of memory; take a smaller model, shorter texts or less data at once", FAILED)
    except OSError as problem:
        if problem.errno not in _THE_MACHINES:
            return _bug(problem)
        return _ended("failed", f"{problem.strerror}: {problem.filename or 'a file that was being written'}", FAILED)
    except BaseException as bug:  # the last stop: a bug of ours or of a library, in Rust perhaps, ends in a sentence
        return _bug(bug)


def _ended(word: str, message: object, code: int) -> int:
    print(f"{word}: {visible(str(message))}", file=sys.stderr)
    return code


def _bug(bug: BaseException) -> int:
    import traceback

    shown = traceback.format_exception(bug, limit=-20 if isinstance(bug, RecursionError) else None)
    print(visible("".join(shown)), end="", file=sys.stderr)
    text = str(bug).splitlines()
    return _ended("failed", f"{type(bug).__name__}: {text[0] if text else 'no message'} (details above)", FAILED)


def dispatch(arguments: list[str]) -> int:
    """Find the verb in the arguments and run it."""
    if not arguments:
        print(overview(), file=sys.stderr)
        return WRONG_USAGE
    verb, *rest = arguments
    if verb in ("-h", "--help", "help"):
        print(overview())
        return DONE
    if verb == "--version":
        from concordant.runs.identity import package_version

        print(package_version())
        return DONE
    if verb == "run":
        return run_file(rest)
    if verb == "demo":
        from concordant.pipeline.command import demo_command

        return demo_command(rest)
    if verb not in VERBS:
        raise unknown_verb(verb, [*VERBS, *_OTHER])
    return run_verb(verb, rest)


def run_verb(verb: str, arguments: Sequence[str]) -> int:
    """Parse the arguments of a verb, then run the verb or print its config."""
    from concordant.config.help import help_page
    from concordant.config.parse import parse_command, to_mapping
    from concordant.config.yaml_io import dump_yaml

    entry = VERBS[verb]
    config_class: type[Any] = entry.config_class()
    if asked := {"-h", "--help", "--help=all"}.intersection(arguments):
        everything = "--help=all" in asked or any(
            option in asked and value == "all" for option, value in itertools.pairwise(arguments)
        )
        example = f"concordant {verb} {entry.options}"
        print(help_page(verb, config_class, entry.summary, example, everything=everything))
        return DONE
    config, options = parse_command(verb, config_class, arguments)
    if options.print_config:
        say(dump_yaml(to_mapping(verb, config)), end="")
        return DONE
    result = call(verb, config)
    if result is not None:
        print(f"wrote {visible(str(result))}", file=sys.stderr)
    return DONE


def run_file(arguments: Sequence[str]) -> int:
    """Run a pipeline's file, or repeat a run from its config.yaml."""
    from concordant.pipeline.command import HELP, pipeline_command

    if "-h" in arguments or "--help" in arguments:
        print(HELP)
        return DONE
    if not arguments or arguments[0].startswith("--"):
        raise UserError("run: give the file first: concordant run FILE.yaml --output DIR")
    file, *rest = arguments
    mapping = _file_to_run(file)
    if "stages" in mapping:
        return pipeline_command(mapping, file, rest)
    verb_named(str(mapping["verb"]))
    return run_verb(mapping["verb"], ["--config", file, *rest])


def _file_to_run(file: str) -> dict[str, Any]:
    """The mapping in a pipeline's file or in a run's config.yaml. Of anything else it is said what it is."""
    from concordant.config.yaml_io import load_yaml
    from concordant.data.files import is_data_file
    from concordant.runs.names import CONFIG, PIPELINE

    path = Path(file)
    expected = "expected the YAML file of a pipeline, or a run's config.yaml"
    if os.path.isdir(path):
        inside = next((path / name for name in (PIPELINE, CONFIG) if (path / name).is_file()), None)
        raise UserError(f"{file} is a folder; {expected}.{f' Did you mean {inside}?' if inside else ''}")
    try:
        mapping = load_yaml(file)
    except UserError:
        if not (os.path.isfile(path) and is_data_file(path)):
            raise
        mapping = {}
    if "stages" in mapping or "verb" in mapping:
        return mapping
    if is_data_file(path):
        raise UserError(f"{file} is a data file; {expected}, with the data as --data {file}")
    raise UserError(f'{file} has neither "stages" (a pipeline) nor "verb" (a run\'s config.yaml)')


def overview() -> str:
    """The help page that ``concordant --help`` prints."""
    width = max(map(len, [*VERBS, *_OTHER]))
    summaries = {name: entry.summary for name, entry in VERBS.items()} | _OTHER
    lines = [f"  {name:<{width}}  {summary}" for name, summary in summaries.items()]
    return "\n".join(
        [
            "usage: concordant VERB [--config FILE.yaml] [--KEY VALUE | --SECTION.KEY=VALUE ...]",
            "",
            "Turns human preferences into an aligned language model.",
            "",
            *lines,
            "",
            "concordant VERB --help shows a verb's common keys, concordant VERB --help all shows every key.",
            "--print_config prints the resulting config.",
            "Exit codes: 0 done, 1 failed, 2 wrong usage or bad input, 3 stopped early but resumable.",
        ]
    )
