"""Shape and type checks are on for the whole package while tests run."""

from jaxtyping import install_import_hook

# Before anything imports undertow: modules loaded earlier would go unchecked.
install_import_hook("undertow", "beartype.beartype")
