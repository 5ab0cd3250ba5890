"""`quarterhour demo`: the plug-in and an EHR in a box, on loopback, in one process."""
