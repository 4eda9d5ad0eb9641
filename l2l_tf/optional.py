"""The error for a missing optional package."""

# The extra of this package that installs what figures, pictures and data sets need.
_EXTRA = "experiments"


def missing(package: str, purpose: str) -> ModuleNotFoundError:
    """Returns the error to raise if a package is not installed.

    Args:
        package: its name.
        purpose: what needs it, as a plural noun.
    """
    return ModuleNotFoundError(
        f"{package} must be installed for {purpose}. Received: no module of it. "
        f"Install it with `pip install 'l2l-tf[{_EXTRA}]'`.",
        name=package,
    )
