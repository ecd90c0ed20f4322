"""Options of the Beam jobs of a deployment."""

from __future__ import annotations

from collections.abc import Sequence


def job_args(beam_args: Sequence[str]) -> list[str]:
    """What is configured, and for jobs that run in this process two things that save seconds a job and
    change no result.

    Beam's default runner looks through every job twice for a reason to be another runner, and TFX packs its
    sources for the workers unless an option says where they get them from.
    """
    if "--direct_running_mode=in_memory" not in beam_args or any(a.startswith("--runner") for a in beam_args):
        return list(beam_args)
    runner = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
    return [*beam_args, f"--runner={runner}", "--sdk_container_image=unused"]
