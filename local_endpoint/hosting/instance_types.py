"""How much memory an ``ml.*`` instance type has, so that a container gets no more than there."""

from __future__ import annotations

import re

GIB = 1024**3
# Of the small sizes; from "large" (2 vCPUs) on they double.
_T_SIZES_GIB = {"nano": 0.5, "micro": 1, "small": 2, "medium": 4, "large": 8, "xlarge": 16, "2xlarge": 32}
_VCPUS = {"medium": 1, "large": 2, "xlarge": 4}
# GiB per vCPU by the family's first letter; those that differ by name
_GIB_PER_VCPU = {"c": 2, "m": 4, "r": 8, "x": 16, "g": 4, "p": 8, "i": 2, "t": 4}
_FAMILIES = {"g5": 4, "g6": 4, "p2": 15.25, "p3": 7.625, "p4d": 12, "inf1": 2, "inf2": 4, "trn1": 4}
DEFAULT_GIB = 16.0


def memory_bytes(instance_type: str) -> int:
    """By the rules of AWS's naming; 16 GiB where the name says nothing."""
    match = re.fullmatch(r"ml\.(?P<family>[a-z0-9-]+)\.(?P<size>[a-z0-9-]+)", instance_type)
    if not match:
        return int(DEFAULT_GIB * GIB)
    family, size = match["family"], match["size"]
    if re.fullmatch(r"t\d\w*", family) and size in _T_SIZES_GIB:
        return int(_T_SIZES_GIB[size] * GIB)
    many = re.fullmatch(r"(\d+)xlarge", size)
    vcpus = int(many[1]) * 4 if many else _VCPUS.get(size)
    per_vcpu = _FAMILIES.get(family) or _GIB_PER_VCPU.get(family[0])
    if vcpus is None or per_vcpu is None:
        return int(DEFAULT_GIB * GIB)
    return int(vcpus * per_vcpu * GIB)
