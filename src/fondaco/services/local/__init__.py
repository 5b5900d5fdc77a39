"""The local provisioner: services as processes of this machine, each service kept by a process of its own.

`LocalProvisioner` is in `provisioner`; this file imports nothing, because the keeper's start passes through it. What lies where, and what
happens when something dies: docs/internals/local-services.md.
"""
