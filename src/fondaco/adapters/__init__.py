"""Adapters: engines outside this process, each optional and imported only where it is named."""
