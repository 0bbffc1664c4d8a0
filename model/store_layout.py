"""The layout of the model store: its version, and the refusal of a newer one.

layout.json   {"layout": 1}; a store of version 0.1.0 has none, and its layout is 1
"""

import json

from model.errors import LayoutError
from model.store import Store

LAYOUT = 1
PATH = "layout.json"


def check_store_layout(store: Store) -> bool:
    """Return True if the store says that it has our layout, False if it says nothing.

    Raises:
        LayoutError: a newer version wrote the store.
        StoreError: the store cannot be read.
    """
    content = store.read(PATH)
    if content is None:
        return False
    try:
        layout = json.loads(content)["layout"]
    except (ValueError, TypeError, KeyError, RecursionError):
        layout = f"unknown ({content[:40]!r})"
    if layout != LAYOUT:
        raise LayoutError(
            f"MODEL_STORE holds files in layout {layout}, and this version reads layout {LAYOUT}. Start the version of "
            f"captioner that wrote the files, or name another place in MODEL_STORE. Nothing was changed."
        )
    return True


def note_store_layout(store: Store) -> None:
    """Write the layout into a store that does not name one yet; raises what `check_store_layout` raises."""
    if not check_store_layout(store):
        store.write(PATH, json.dumps({"layout": LAYOUT}).encode())
