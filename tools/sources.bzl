"""sources: the files that programs are built from, for tests that read them."""

_Sources = provider(fields = ["files"])

def _aspect_impl(target, ctx):
    own = []
    inner = []
    for name in ["srcs", "hdrs", "deps"]:
        for label in getattr(ctx.rule.attr, name, None) or []:
            own += [file for file in label.files.to_list() if file.is_source and not file.owner.workspace_name]
            if _Sources in label:
                inner.append(label[_Sources].files)
    return [_Sources(files = depset([file for file in own if file.extension in ["cc", "h"]], transitive = inner))]

_aspect = aspect(attr_aspects = ["srcs", "deps"], implementation = _aspect_impl)

def _impl(ctx):
    files = depset(transitive = [target[_Sources].files for target in ctx.attr.of])
    return [DefaultInfo(files = files, runfiles = ctx.runfiles(transitive_files = files))]

# The *.cc and *.h of this workspace that the targets `of` are built from, theirs and those of all that they depend on.
sources = rule(
    implementation = _impl,
    attrs = {"of": attr.label_list(aspects = [_aspect])},
)
