"""Many variants on one base, answered from memory: the engine, its queue, and the HTTP door in front of them."""
