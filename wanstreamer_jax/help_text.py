"""What `--help` says of options."""

import argparse


class WithDefaults(argparse.ArgumentDefaultsHelpFormatter):
    """Tells the default of each option that has one, unless its help does so in words."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_none = action.default is None or action.default is False or action.default == []
        if has_none or "default:" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)
