"""Which of a model's environment variables a process of this machine may get.

In a container a variable does what it does inside of it. A process shares this machine's files and programs: a variable
that a loader or an interpreter acts on would have it run anything. The container's own settings and SageMaker's are
passed on, and all names that mean nothing to those.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

WHAT_ACTS_ON_THEM = {
    "the dynamic loader and the C library": (
        r"LD_\w*|DYLD_\w*|GLIBC_TUNABLES|GCONV_PATH|LOCPATH|NLSPATH|NIS_PATH|MALLOC_\w*|HOSTALIASES|LOCALDOMAIN"
        r"|RES_OPTIONS|RESOLV_\w*|GETCONF_DIR|TZDIR"
    ),
    "the Python interpreter": r"PYTHON\w*|VIRTUAL_ENV|__PYVENV_LAUNCHER__",
    "the Java runtime": r"_?JAVA_\w*|JDK_JAVA_OPTIONS|_JAVA_OPTIONS|CLASSPATH|JRE_HOME|JDK_HOME|IBM_JAVA_OPTIONS",
    "the shell": (
        r"PATH|HOME|SHELL|ENV|BASH\w*|SHELLOPTS|IFS|CDPATH|GLOBIGNORE|PS[0-4]|PROMPT_COMMAND|ZDOTDIR|EDITOR|VISUAL"
        r"|PAGER|BROWSER|LESS\w*|TMPDIR|TMP|TEMP"
    ),
    "another interpreter or tool": (
        r"NODE_\w*|PERL\w*|RUBY\w*|LUA_\w*|GIT_\w*|SSH_\w*|XDG_\w*|OPENSSL_\w*|SSL_CERT_\w*|AWS_CONFIG_FILE"
        r"|AWS_SHARED_CREDENTIALS_FILE|DOTNET_\w*|CORECLR_\w*|R_\w*|JULIA_\w*"
    ),
    "a library that loads further ones": (
        r"OMP_TOOL\w*|CUDA_INJECTION\w*|NVIDIA_\w*PATH|MXNET_LIBRARY_PATH|TF_PLUGGABLE_DEVICE_LIBRARY_PATH"
        r"|ORT_DYLIB_PATH|TORCH_(?:EXTENSIONS|LIBRARY)\w*|NCCL_\w*PLUGIN|KMP_\w*LIB\w*"
    ),
}
_PATTERNS = {who: re.compile(pattern) for who, pattern in WHAT_ACTS_ON_THEM.items()}
# Sizes, collectors and switches of the JVM; not what makes it run or load something.
VMARGS = "SAGEMAKER_MODEL_SERVER_VMARGS"
_HARMLESS_VMARG = re.compile(r"-X(?:m[nsx]|ss)\d+[kKmMgG]?|-XX:[+-]\w+|-XX:\w+=[\d.]+[kKmMgG%]?|-D[\w.]+=[\w.:-]*")
_HARMFUL_SWITCH = re.compile(r"-XX:[+-](?:Flags|VMOptionsFile)\w*|-D(?:java|jdk|sun|com\.sun)\..*")


def refusal(environment: Mapping[str, str]) -> str | None:
    """Why a process may not have this environment, with the remedy; None where it may."""
    for name, value in environment.items():
        for who, pattern in _PATTERNS.items():
            if pattern.fullmatch(name.upper()):
                return (
                    f"Environment variable {name} is refused: {who} would act on it, and with --runtime process the "
                    "container is a process of this machine. Leave it out, or use --runtime docker."
                )
        if name.startswith("BASH_FUNC_") or "=" in name or "\0" in name + value or not name:
            return f"Environment variable {name!r} is refused: a process cannot have it. Leave it out."
        if name == VMARGS:
            for argument in value.split():
                if _HARMFUL_SWITCH.fullmatch(argument) or not _HARMLESS_VMARG.fullmatch(argument):
                    return (
                        f"{argument} in {VMARGS} is refused: with --runtime process only sizes, switches and "
                        "properties may be given to the Java runtime. Leave it out, or use --runtime docker."
                    )
    return None
