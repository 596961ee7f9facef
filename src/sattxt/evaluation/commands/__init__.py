"""The sub-commands of ``sattxt eval``, a file each."""
