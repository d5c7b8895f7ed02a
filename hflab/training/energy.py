"""Energy and CO2 of a run, estimated by codecarbon where the recipe names a country; without network.

Beyond what the processor itself reports, codecarbon estimates from the processor's model and load, and takes the country's mean mix of electricity.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from ..errors import UserError, check_choice
from ..run_folder import RunFolder

KILOGRAM = 1000  # grams


def check_country(country: str | None) -> None:
    """Raise `UserError` where a country is named and cannot be measured for: no codecarbon, or no such country."""
    if country is None:
        return
    try:
        from codecarbon.input import DataSource
    except ImportError:
        raise UserError("tracking.country needs the package codecarbon, which is not installed; run: pip install 'hflab[energy]'") from None
    known = [code for code in DataSource().get_global_energy_mix_data() if code.isupper() and len(code) == 3]
    check_choice("tracking.country", country, known)


@contextmanager
def measured_energy(run: RunFolder, country: str | None, *, num_processes: int) -> Iterator[None]:
    """Add what is used inside of the block to `energy` of run.json, in kilowatt-hours and grams of CO2; nothing where no country is named.

    A run that is interrupted and resumed adds up; the part of one that was killed is missing, and `resumed` says that there may be one.
    """
    if country is None:
        yield
        return
    from codecarbon import OfflineEmissionsTracker

    tracker = OfflineEmissionsTracker(
        country_iso_code=country,
        output_methods=[],
        log_level="critical",
        allow_multiple_runs=True,
        tracking_mode="process" if num_processes == 1 else "machine",
    )
    tracker.start()
    try:
        yield
    finally:
        tracker.stop()
        _add(run, country, tracker.final_emissions_data)


def _add(run: RunFolder, country: str, measured: Any) -> None:
    before = run.read_facts().get("energy")
    earlier = before or {"kilowatt_hours": 0.0, "grams_co2": 0.0}
    run.update_facts(
        energy={
            "kilowatt_hours": earlier["kilowatt_hours"] + measured.energy_consumed,
            "grams_co2": earlier["grams_co2"] + measured.emissions * KILOGRAM,
            "country": country,
            "tool": f"codecarbon {version('codecarbon')}",
            "resumed": before is not None,
        }
    )
