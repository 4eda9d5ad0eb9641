"""What is said where a package is missing that only a part of the library needs."""

# Which extra of this package brings what only figures, pictures and data sets need.
_EXTRA = "experiments"


def missing(package: str, purpose: str) -> ModuleNotFoundError:
    """Returns the error of a package that is not installed.

    Args:
        package: its name.
        purpose: what needs it, in the plural.
    """
    return ModuleNotFoundError(
        f"{package} must be installed for {purpose}. Received: no module of it. "
        f"Install it with `pip install 'l2l-tf[{_EXTRA}]'`.",
        name=package,
    )
