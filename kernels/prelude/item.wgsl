// item: the place of a work-item in a grid that is folded into two dimensions where it exceeds the cap of one. What is
// beyond the end does nothing.

struct Item {
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
}

fn group_of(item: Item) -> u32 {
    return item.group.y * item.groups.x + item.group.x;
}

fn place_of(item: Item) -> u32 {
    return group_of(item) * BLOCK + item.local.x;
}
