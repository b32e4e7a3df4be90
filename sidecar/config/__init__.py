"""The configuration: one YAML file in, frozen values out, or every fault at once."""
