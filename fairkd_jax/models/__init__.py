"""An architecture as two pure functions, with a tape of named intermediates."""
